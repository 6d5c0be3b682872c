//! Every frame and every endpoint, asked without a token, with a bad or revoked one, from another project
//! and under a role that may do nothing: each is refused, or answered without a byte of the project.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use syncline::clock;
use syncline::config::{Config, Role};
use syncline::protocol::client::Kind;

use super::{Site, bad_tokens, clean, revoke_stolen};
use crate::support::client::{Client, End};
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};
use crate::support::routes;

/// A frame, and what it is answered: to who has shown no token, and to who is in another project. A code, or
/// else the answer's type.
struct Frame {
    json: Value,
    nameless: &'static str,
    foreign: &'static str,
}

/// A frame of every type a client can send, each for something in the project if it can be.
fn frames() -> Vec<Frame> {
    let row = |foreign, json| Frame { json, nameless: "unauthorized", foreign };
    let forbidden = |json| row("forbidden", json);
    let mut rows = vec![
        forbidden(json!({ "type": "subscribe", "rooms": [{ "room": "project:p", "since": 0 }] })),
        forbidden(
            json!({ "type": "subscribe", "rooms": [{ "room": "entity:p:task:t1", "since": 0 }] }),
        ),
        forbidden(
            json!({ "type": "subscribe", "rooms": [{ "room": "room:p:screen", "presence": true }] }),
        ),
        forbidden(json!({ "type": "subscribe", "rooms": [{ "room": "user:insider" }] })),
        forbidden(
            json!({ "type": "subscribe", "rooms": [{ "room": "project:p", "presence": true }] }),
        ),
        forbidden(
            json!({ "type": "subscribe", "rooms": [{ "room": "entity:p:payroll:1", "presence": true }] }),
        ),
        row("unsubscribed", json!({ "type": "unsubscribe", "rooms": ["project:p"] })),
        forbidden(json!({ "type": "write", "project": "p", "ops": [
            { "op_id": "w", "kind": "update", "type": "task", "id": "t1", "base": 0, "fields": { "title": 1 } }] })),
        forbidden(json!({ "type": "write", "project": "p", "ops": [
            { "op_id": "t1", "kind": "create", "type": "task", "id": "t1", "fields": { "title": 1 } }] })),
        forbidden(json!({ "type": "write", "project": "p", "ops": [
            { "op_id": "d", "kind": "delete", "type": "task", "id": "t1", "base": 1 }] })),
        forbidden(json!({ "type": "write", "project": "p", "ops": [
            { "op_id": "r", "kind": "resolve", "type": "task", "id": "t1", "choose": "client",
              "conflict": "0192f0c1-0000-7000-8000-0000000000c1", "expected_version": 1 }] })),
        forbidden(json!({ "type": "broadcast", "room": "room:p:screen", "event": "e" })),
        forbidden(json!({ "type": "presence", "room": "room:p:screen", "state": 1 })),
        forbidden(json!({ "type": "ack", "project": "p", "seq": 1 })),
        row("ok", json!({ "type": "ack", "active": true })),
        row("unauthorized", json!({ "type": "refresh", "token": "a.b.c" })),
        row("connected", json!({ "type": "connect" })),
        row("bad_request", json!({ "type": "push_device", "provider": "expo", "token": null })),
    ];
    rows.push(Frame { nameless: "pong", ..row("pong", json!({ "type": "ping" })) });
    rows
}

/// The code of a refusal, of its own or of the room it is about; else the answer's type.
fn said(answer: &Value) -> &Value {
    let of_room = &answer["rooms"][0]["error"]["code"];
    [of_room, &answer["code"]].into_iter().find(|code| !code.is_null()).unwrap_or(&answer["type"])
}

#[test]
fn the_table_has_every_frame() {
    let rows = frames();
    let has = |kind: &str| rows.iter().any(|row| row.json["type"] == kind);
    let missing: Vec<_> = Kind::ALL.iter().filter(|kind| !has(kind.as_str())).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[tokio::test]
async fn no_frame_is_heard_without_a_good_token() {
    let mut site = Site::start().await;
    revoke_stolen(&site.hub).await;
    let mut nobody = Client::open(&site.hub.ws(), None).await.unwrap();
    for Frame { json, nameless, .. } in frames() {
        let answer = nobody.ask(json.clone()).await;
        assert_eq!(said(&answer), nameless, "{json}");
        clean(&answer);
    }
    // A longer one ends the connection before it is read.
    for (what, token, code, _) in bad_tokens().into_iter().filter(|(_, t, ..)| t.len() < 16_000) {
        let answer = nobody.ask(json!({ "type": "connect", "token": token })).await;
        assert_eq!(answer["code"], code, "{what}");
        clean(&answer);
    }
    site.talk().await;
    clean(&Value::from(nobody.settle().await));

    for (what, token, _, close) in bad_tokens() {
        let mut client = Client::open(&site.hub.ws(), Some(&token)).await.unwrap();
        let (frames, end) = client.end().await;
        assert_eq!((frames, end), (vec![], End::Closed(close)), "{what}");
    }
    site.hub.stop().await;
}

#[tokio::test]
async fn no_frame_reaches_into_another_project() {
    let mut site = Site::start().await;
    revoke_stolen(&site.hub).await;
    let mut mallory =
        Client::connect(&site.hub.ws(), &token("mallory", &json!({ "other": "admin" }))).await;
    for Frame { json, foreign, .. } in frames() {
        let answer = mallory.ask(json.clone()).await;
        assert_eq!(said(&answer), foreign, "{json}: {answer}");
        clean(&answer);
    }
    // Names that look like the project's, and rooms of her own that carry its name.
    for room in [
        "project:P",
        "project:p ",
        "project:p%00",
        "project:*",
        "entity:p:*:t1",
        "user:*",
        "room:other:p:screen",
        "project:other:p",
        "entity:other:task:p",
    ] {
        let answer =
            mallory.subscribe(json!([{ "room": room, "since": 0, "presence": true }])).await;
        clean(&Value::from(answer));
    }
    // No other token gets her further on an open session, and a bad one does not end it.
    let other = token("insider", &json!({ "p": "editor" }));
    for kind in ["refresh", "connect"] {
        let answer = mallory.ask(json!({ "type": kind, "token": other })).await;
        assert_eq!(answer["code"], "forbidden", "a {kind} does not change the user");
        for (what, token, code, _) in bad_tokens() {
            let answer = mallory.ask(json!({ "type": kind, "token": token })).await;
            assert_eq!(answer["code"], code, "{what}: {kind}");
        }
    }
    site.talk().await;
    clean(&Value::from(mallory.settle().await));
    site.hub.stop().await;
}

/// A role of the project that may do nothing there.
fn with_blind(config: &mut Config) {
    config.roles.0.insert("blind".into(), Role::default());
}

/// Whether somebody in the project may see it whatever their role.
fn for_every_role(row: &str) -> bool {
    row.contains("room:p:screen")
}

#[tokio::test]
async fn no_frame_shows_anything_to_a_role_without_rights() {
    let mut site = Site::start_with(with_blind).await;
    let blind = token("mallory", &json!({ "p": "blind" }));
    let mut mallory = Client::connect(&site.hub.ws(), &blind).await;
    for Frame { json, .. } in frames().into_iter().filter(|f| !for_every_role(&f.json.to_string()))
    {
        clean(&mallory.ask(json).await);
    }
    site.talk().await;
    clean(&Value::from(mallory.settle().await));
    // Nothing of it was done either: the insider's task is what it was.
    let editor = token("insider", &json!({ "p": "editor" }));
    let task = reqwest::Client::new().get(site.hub.http("/v1/projects/p/entities/task/t1"));
    let task: Value = task.bearer_auth(editor).send().await.unwrap().json().await.unwrap();
    assert_eq!((&task["version"], &task["deleted"]), (&json!(1), &Value::Null), "{task}");
    site.hub.stop().await;
}

/// Whose an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Of who is in the project.
    Project,
    /// Of any user; it tells of what is theirs.
    User,
    /// Of who has what came with a push.
    Push,
    /// Of administrators.
    Admin,
    /// Of backends: administrators, or who signs.
    Backend,
}

struct Endpoint {
    of: Of,
    method: Method,
    path: &'static str,
    body: String,
}

/// Every endpoint, with what would show or change something of the project.
fn endpoints() -> Vec<Endpoint> {
    let ops = json!({ "ops": [{ "op_id": "t1", "kind": "create", "type": "task", "id": "t1", "fields": {} }] });
    let event =
        json!({ "project": "p", "kind": "delete", "entity": { "type": "task", "id": "t1" } });
    let revocation =
        json!({ "kind": "user", "user": "insider", "issued_before": clock::now_s() + 60 });
    let device = json!({ "client": "c", "provider": "expo", "platform": "ios",
        "token": "ExponentPushToken[xxxxxxxxxxxxxxxxxxxxxx]" });
    let report = json!({ "nid": "0192f0c1-0000-7000-8000-00000000000a", "report": "1.x" });
    let (p, none) = (json!({ "project": "p" }), Value::Null);
    let lane = json!({ "user": "insider" });
    let policy =
        json!({ "strategy": "CACHE_FIRST", "ttl": 900, "stale": 86400, "max_bytes": 20971520 });
    let schedule = json!({ "project": "p", "nid": "n" });
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    let rows = [
        (Of::Project, &get, "/v1/projects/p/changes?since=0", &none),
        (Of::Project, &get, "/v1/projects/p/checksum", &none),
        (Of::Project, &get, "/v1/projects/p/checksum?types=task,payroll", &none),
        (Of::Project, &get, "/v1/projects/p/entities/task/t1", &none),
        (Of::Project, &get, "/v1/projects/p/entities/task/none", &none),
        (Of::Project, &get, "/v1/projects/p/entities/task/t1/explain", &none),
        (Of::Project, &get, "/v1/projects/p/conflicts", &none),
        (Of::Project, &post, "/v1/projects/p/ops", &ops),
        (Of::Project, &get, "/v1/sync/status?project=p", &none),
        (Of::Project, &get, "/v1/sync/log?project=p", &none),
        (Of::Project, &get, "/v1/sync/failed?project=p", &none),
        (Of::Project, &post, "/v1/sync/failed/retry", &p),
        (Of::Project, &post, "/v1/sync/failed/clear", &p),
        (Of::Project, &get, "/v1/rooms/room:p:screen/presence", &none),
        (Of::Project, &get, "/v1/rooms/project:p/presence", &none),
        (Of::Project, &get, "/v1/notifications?project=p", &none),
        (Of::Project, &post, "/v1/notifications/read-all", &p),
        (Of::Project, &post, "/v1/notifications/seen", &p),
        (Of::Project, &post, "/v1/notifications/test", &p),
        (Of::User, &get, "/v1/cache-policies", &none),
        (Of::User, &get, "/v1/sync/status", &none),
        (Of::User, &get, "/v1/notifications", &none),
        (Of::User, &post, "/v1/notifications/none/read", &none),
        (Of::User, &post, "/v1/notifications/read-all", &none),
        (Of::User, &post, "/v1/notifications/seen", &none),
        (Of::User, &get, "/v1/push/devices", &none),
        (Of::User, &post, "/v1/push/devices", &device),
        (Of::User, &put, "/v1/push/devices", &device),
        (Of::User, &delete, "/v1/push/devices/1", &none),
        (Of::Push, &post, "/v1/push/received", &report),
        (Of::Push, &post, "/v1/push/opened", &report),
        (Of::Backend, &post, "/v1/publish", &event),
        (Of::Admin, &get, "/v1/push/stats", &none),
        (Of::Admin, &get, "/v1/push/queue", &none),
        (Of::Admin, &post, "/v1/push/preview", &json!({ "template": "sos" })),
        (Of::Admin, &post, "/v1/push/unschedule", &schedule),
        (Of::Admin, &put, "/v1/admin/cache-policies/task", &policy),
        (Of::Admin, &delete, "/v1/admin/cache-policies/task", &none),
        (Of::Admin, &get, "/v1/admin/projects/p/conflicts", &none),
        (Of::Admin, &get, "/v1/admin/projects/p/sync/status?user=insider", &none),
        (Of::Admin, &get, "/v1/admin/projects/p/sync/log", &none),
        (Of::Admin, &get, "/v1/admin/projects/p/sync/failed", &none),
        (Of::Admin, &post, "/v1/admin/projects/p/sync/failed/retry", &lane),
        (Of::Admin, &post, "/v1/admin/projects/p/sync/failed/clear", &lane),
        (Of::Admin, &post, "/v1/admin/users/insider/disconnect", &none),
        (Of::Admin, &post, "/v1/admin/tokens/revoke", &revocation),
        (Of::Admin, &get, "/v1/admin/projects/p/members", &none),
        (Of::Admin, &put, "/v1/admin/projects/p/members/mallory", &json!({ "role": "admin" })),
        (Of::Admin, &delete, "/v1/admin/projects/p/members/insider", &none),
        (Of::Admin, &delete, "/v1/admin/projects/p/members/insider?forget=true", &none),
    ];
    let text = |body: &Value| if body.is_null() { String::new() } else { body.to_string() };
    rows.into_iter()
        .map(|(of, method, path, body)| Endpoint {
            of,
            method: method.clone(),
            path,
            body: text(body),
        })
        .collect()
}

fn of(wanted: &[Of]) -> impl Iterator<Item = Endpoint> {
    endpoints().into_iter().filter(|endpoint| wanted.contains(&endpoint.of))
}

#[test]
fn the_table_has_every_endpoint() {
    let routes = routes::all();
    let rows: BTreeSet<_> =
        endpoints().into_iter().map(|row| (row.method.to_string(), row.path)).collect();
    let one_of = |(method, path): &(String, &str)| {
        routes.iter().any(|(known, pattern)| known == method && routes::matches(pattern, path))
    };
    assert!(rows.iter().all(one_of), "a row for what there is not: {rows:?}");
    for (method, pattern) in &routes {
        let has = rows.iter().any(|(m, path)| m == method && routes::matches(pattern, path));
        assert!(has, "no row for {method} {pattern}");
    }
}

/// Someone who asks over HTTP.
struct Asker<'a> {
    hub: &'a TestHub,
    http: reqwest::Client,
}

impl<'a> Asker<'a> {
    fn new(hub: &'a TestHub) -> Self {
        Self { hub, http: reqwest::Client::new() }
    }

    /// The status of an answer in which nothing of the project is, and its text.
    async fn ask(&self, endpoint: &Endpoint, token: Option<&str>) -> (u16, String) {
        let Endpoint { method, path, body, .. } = endpoint;
        let request = self.http.request(method.clone(), self.hub.http(path)).body(body.clone());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        assert!(status < 500, "{method} {path}: {status}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401, "{path}");
        if status >= 400 {
            assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        }
        let text = answer.text().await.unwrap();
        clean(&text);
        (status, text)
    }

    /// That the answer is a refusal with this status and code.
    async fn refused(&self, endpoint: &Endpoint, token: Option<&str>, status: u16, code: &str) {
        let Endpoint { method, path, .. } = endpoint;
        let (got, text) = self.ask(endpoint, token).await;
        assert_eq!(got, status, "{method} {path}: {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["code"], code, "{method} {path}: {text}");
    }
}

#[tokio::test]
async fn no_endpoint_answers_without_the_right_token() {
    let mut site = Site::start().await;
    revoke_stolen(&site.hub).await;
    let asker = Asker::new(&site.hub);
    let (mut missing, mut wrong) = (0, 0);
    for endpoint in of(&[Of::Project, Of::User]) {
        asker.refused(&endpoint, None, 401, "unauthorized").await;
        missing += 1;
        // The admin token is no user's.
        asker.refused(&endpoint, Some(ADMIN_TOKEN), 401, "unauthorized").await;
        for (_, token, code, _) in bad_tokens() {
            asker.refused(&endpoint, Some(&token), 401, code).await;
        }
    }
    let editor = token("insider", &json!({ "p": "admin" }));
    for endpoint in of(&[Of::Admin, Of::Backend]) {
        for token in [None, Some("wrong"), Some(&*editor), Some(&ADMIN_TOKEN[1..])] {
            asker.refused(&endpoint, token, 401, "unauthorized").await;
            // A request to publish without any token may be one that is signed.
            wrong += u32::from(token.is_some() || endpoint.of == Of::Admin);
        }
    }
    for endpoint in of(&[Of::Push]) {
        for token in [None, Some(&*editor), Some(ADMIN_TOKEN)] {
            asker.refused(&endpoint, token, 403, "forbidden").await;
        }
    }
    let counted = |reason: &str| {
        site.hub.metric(&format!("syncline_auth_failures_total{{reason=\"{reason}\"}}"))
    };
    assert_eq!(counted("missing"), f64::from(missing), "each was counted");
    assert_eq!(counted("admin_token"), f64::from(wrong), "each was counted");
    site.talk().await;
    site.hub.stop().await;
}

#[tokio::test]
async fn no_endpoint_reaches_into_another_project() {
    let mut site = Site::start().await;
    let mallory = token("mallory", &json!({ "other": "admin" }));
    let asker = Asker::new(&site.hub);
    for endpoint in of(&[Of::Project]) {
        asker.refused(&endpoint, Some(&mallory), 403, "forbidden").await;
    }
    for endpoint in of(&[Of::User]) {
        asker.ask(&endpoint, Some(&mallory)).await;
    }
    site.talk().await;
    site.hub.stop().await;
}

#[tokio::test]
async fn no_endpoint_shows_anything_to_a_role_without_rights() {
    let mut site = Site::start_with(with_blind).await;
    let blind = token("mallory", &json!({ "p": "blind" }));
    let asker = Asker::new(&site.hub);
    for endpoint in of(&[Of::Project, Of::User]).filter(|row| !for_every_role(row.path)) {
        asker.ask(&endpoint, Some(&blind)).await;
    }
    for path in ["/v1/projects/p/entities/task/t1", "/v1/projects/p/entities/task/t1/explain"] {
        let endpoint = Endpoint { of: Of::Project, method: Method::GET, path, body: String::new() };
        asker.refused(&endpoint, Some(&blind), 403, "forbidden").await;
    }
    site.talk().await;
    site.hub.stop().await;
}

#[tokio::test]
async fn without_an_admin_token_there_is_no_admin_api() {
    let hub = TestHub::start_with(|config| config.auth.admin_token.clear()).await;
    let asker = Asker::new(&hub);
    for endpoint in of(&[Of::Admin]) {
        for token in [None, Some("")] {
            asker.refused(&endpoint, token, 404, "not_found").await;
        }
    }
    hub.stop().await;
}
