//! No byte of a project reaches a connection or a request whose token does not grant it.
//!
//! Everything the hub holds of the project contains [`CANARY`]; whatever an attacker receives must not.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use syncline::auth::{MAX_PROJECTS, mint};
use syncline::clock;
use syncline::config::Hmac;

use crate::support::client::{Client, End, create};
use crate::support::eventually;
use crate::support::hub::{ADMIN_TOKEN, SECRET, TestHub, key, token, token_with};
use crate::support::raw::{Heard, Raw, text};

const CANARY: &str = "canary-7f3a";

/// A project full of canaries, and someone in it who goes on talking.
struct Site {
    hub: TestHub,
    insider: Client,
    said: u64,
}

impl Site {
    async fn start() -> Self {
        let hub = TestHub::start_with(|config| {
            config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
            config.presence.batch = std::time::Duration::from_millis(5);
        })
        .await;
        let mut insider =
            Client::connect(&hub.ws(), &token("insider", &json!({ "p": "editor" }))).await;
        let rooms = json!([{ "room": "project:p" }, { "room": "room:p:screen", "presence": true }]);
        insider.subscribe(rooms).await;
        let payroll = json!({ "op_id": "pay", "kind": "create", "type": "payroll", "id": "1",
            "fields": { "pay": CANARY } });
        insider.write("p", json!([create("t1", "t1", &json!({ "title": CANARY })), payroll])).await;
        let mut site = Self { hub, insider, said: 0 };
        site.talk().await;
        site
    }

    /// Changes, a broadcast, a presence state and a notification to everyone who attacks.
    async fn talk(&mut self) {
        self.said += 1;
        let mut op =
            create(&format!("s{}", self.said), &format!("s{}", self.said), &json!({ "x": CANARY }));
        op["notify"] = json!({ "users": ["mallory"], "title": CANARY });
        self.insider.write("p", json!([op])).await;
        for frame in [
            json!({ "type": "broadcast", "room": "room:p:screen", "event": CANARY, "data": CANARY }),
            json!({ "type": "presence", "room": "room:p:screen", "state": [CANARY, self.said] }),
        ] {
            assert_eq!(self.insider.ask(frame).await["type"], "ok");
        }
        self.insider.expect("presence").await;
        self.insider.settle().await;
    }
}

fn clean(received: &impl ToString) {
    let received = received.to_string();
    assert!(!received.contains(CANARY), "a byte leaked: {received}");
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = clock::now_s();
    let mut claims = json!({ "sub": "mallory", "projects": { "p": "editor" }, "iat": now,
        "exp": now + 600, "jti": "good" });
    change(&mut claims);
    claims
}

fn unsigned(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// A token whose signature is good by our key, whatever its header claims.
fn signed(header: &Value, claims: &Value) -> String {
    let token = unsigned(header, claims, "");
    let mut mac = hmac::Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(token.trim_end_matches('.').as_bytes());
    token + &URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

/// Tokens nobody may get in with: what they are, the token, the error code and the close code.
fn bad_tokens() -> Vec<(&'static str, String, &'static str, u16)> {
    let good = token_with(&claims(|_| {}));
    let signature = good.rsplit('.').next().unwrap();
    let kid = |kid: &str| mint(&Hmac { kid: kid.into(), ..key() }, &claims(|_| {})).unwrap();
    let forged = Hmac { secret: "another secret of at least 32 bytes".into(), ..key() };
    let hs256 = json!({ "alg": "HS256", "typ": "JWT" });
    let past = clock::now_s() - 600;
    vec![
        ("malformed", "a.b".into(), "unauthorized", 4401),
        ("no JWT at all", "x".repeat(300), "unauthorized", 4401),
        ("forged", mint(&forged, &claims(|_| {})).unwrap(), "unauthorized", 4401),
        (
            "other claims under a good signature",
            { unsigned(&hs256, &claims(|c| c["sub"] = "insider".into()), signature) },
            "unauthorized",
            4401,
        ),
        ("none", unsigned(&json!({ "alg": "none" }), &claims(|_| {}), ""), "unauthorized", 4401),
        (
            "None",
            unsigned(&json!({ "alg": "NONE" }), &claims(|_| {}), signature),
            "unauthorized",
            4401,
        ),
        (
            "another algorithm",
            mint(
                &Hmac {
                    algorithm: "HS384".into(),
                    secret: format!("{:>64}", key().secret),
                    ..key()
                },
                &claims(|_| {}),
            )
            .unwrap(),
            "unauthorized",
            4401,
        ),
        ("RS256", signed(&json!({ "alg": "RS256" }), &claims(|_| {})), "unauthorized", 4401),
        ("ES256", signed(&json!({ "alg": "ES256" }), &claims(|_| {})), "unauthorized", 4401),
        ("hs256", signed(&json!({ "alg": "hs256" }), &claims(|_| {})), "unauthorized", 4401),
        ("no algorithm", signed(&json!({ "typ": "JWT" }), &claims(|_| {})), "unauthorized", 4401),
        (
            "kid as a list",
            signed(&json!({ "alg": "HS256", "kid": [""] }), &claims(|_| {})),
            "unauthorized",
            4401,
        ),
        (
            "a critical extension well signed",
            signed(&json!({ "alg": "HS256", "crit": ["exp"] }), &claims(|_| {})),
            "unauthorized",
            4401,
        ),
        ("unknown kid", kid("who"), "unauthorized", 4401),
        ("kid as a path", kid("../../../../dev/null"), "unauthorized", 4401),
        ("kid as SQL", kid("' UNION SELECT 'x"), "unauthorized", 4401),
        (
            "embedded key",
            unsigned(
                &json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "eA" } }),
                &claims(|_| {}),
                "eA",
            ),
            "unauthorized",
            4401,
        ),
        (
            "critical extension",
            unsigned(&json!({ "alg": "HS256", "crit": ["b64"] }), &claims(|_| {}), signature),
            "unauthorized",
            4401,
        ),
        (
            "oversized claim",
            token_with(&claims(|c| c["jti"] = "j".repeat(300).into())),
            "unauthorized",
            4401,
        ),
        (
            "oversized token",
            token_with(&claims(|c| c["more"] = "m".repeat(9000).into())),
            "unauthorized",
            4401,
        ),
        (
            "an oversized user",
            token_with(&claims(|c| c["sub"] = "m".repeat(200).into())),
            "unauthorized",
            4401,
        ),
        (
            "too many projects",
            token_with(&claims(|c| {
                let many = (0..=MAX_PROJECTS).map(|n| (format!("p{n}"), json!("editor")));
                c["projects"] = Value::Object(many.collect());
            })),
            "unauthorized",
            4401,
        ),
        (
            "an expiry as text",
            token_with(&claims(|c| c["exp"] = "9999999999".into())),
            "unauthorized",
            4401,
        ),
        ("no expiry", token_with(&claims(|c| c["exp"] = Value::Null)), "unauthorized", 4401),
        (
            "not valid yet",
            token_with(&claims(|c| c["nbf"] = (clock::now_s() + 600).into())),
            "unauthorized",
            4401,
        ),
        ("no user", token_with(&claims(|c| c["sub"] = "".into())), "unauthorized", 4401),
        ("expired", token_with(&claims(|c| c["exp"] = past.into())), "token_expired", 4100),
        ("revoked", token_with(&claims(|c| c["jti"] = "stolen".into())), "token_revoked", 4101),
    ]
}

/// A frame of every type a client can send, each for something in the project.
fn frames() -> Vec<Value> {
    vec![
        json!({ "type": "subscribe", "rooms": [{ "room": "project:p", "since": 0 }] }),
        json!({ "type": "subscribe", "rooms": [{ "room": "entity:p:task:t1", "since": 0 }] }),
        json!({ "type": "subscribe", "rooms": [{ "room": "room:p:screen", "presence": true }] }),
        json!({ "type": "subscribe", "rooms": [{ "room": "user:insider" }] }),
        json!({ "type": "subscribe", "rooms": [{ "room": "project:p", "presence": true }] }),
        json!({ "type": "subscribe", "rooms": [{ "room": "entity:p:payroll:1", "presence": true }] }),
        json!({ "type": "write", "project": "p", "ops": [
            { "op_id": "w", "kind": "update", "type": "task", "id": "t1", "base": 0, "fields": { "title": 1 } }] }),
        json!({ "type": "write", "project": "p", "ops": [
            { "op_id": "t1", "kind": "create", "type": "task", "id": "t1", "fields": { "title": 1 } }] }),
        json!({ "type": "broadcast", "room": "room:p:screen", "event": "e" }),
        json!({ "type": "presence", "room": "room:p:screen", "state": 1 }),
        json!({ "type": "ack", "project": "p", "seq": 1 }),
        json!({ "type": "refresh", "token": "a.b.c" }),
    ]
}

/// The refusal in an answer: its own, or that of the room it is about.
fn code(answer: &Value) -> &Value {
    if answer["type"] == "subscribed" {
        &answer["rooms"][0]["error"]["code"]
    } else {
        &answer["code"]
    }
}

async fn revoke_stolen(hub: &TestHub) {
    let body = json!({ "kind": "token", "jti": "stolen" }).to_string();
    let request = reqwest::Client::new().post(hub.http("/v1/admin/tokens/revoke"));
    let answer = request.bearer_auth(ADMIN_TOKEN).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 204);
}

#[tokio::test]
async fn no_frame_is_heard_without_a_good_token() {
    let mut site = Site::start().await;
    revoke_stolen(&site.hub).await;
    let mut nobody = Client::open(&site.hub.ws(), None).await.unwrap();
    for frame in frames() {
        let answer = nobody.ask(frame.clone()).await;
        assert_eq!(code(&answer), "unauthorized", "{frame}");
        clean(&answer);
    }
    for (what, token, code, _) in bad_tokens() {
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
    let mut mallory =
        Client::connect(&site.hub.ws(), &token("mallory", &json!({ "other": "admin" }))).await;
    for frame in frames() {
        let answer = mallory.ask(frame.clone()).await;
        let expected = if frame["type"] == "refresh" { "unauthorized" } else { "forbidden" };
        assert_eq!(code(&answer), expected, "{frame}: {answer}");
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
    let other = token("insider", &json!({ "p": "editor" }));
    let answer = mallory.ask(json!({ "type": "refresh", "token": other })).await;
    assert_eq!(answer["code"], "forbidden", "a refresh does not change the user");
    let answer = mallory.ask(json!({ "type": "connect", "token": other })).await;
    assert_eq!(answer["code"], "forbidden", "nor does a connect");
    site.talk().await;
    clean(&Value::from(mallory.settle().await));
    site.hub.stop().await;
}

#[tokio::test]
async fn a_role_without_the_right_changes_and_sees_nothing_more() {
    let mut site = Site::start().await;
    let mut viewer = Client::connect(&site.hub.ws(), &token("vi", &json!({ "p": "viewer" }))).await;
    for (op, code) in [
        (create("v1", "t9", &json!({})), "forbidden"),
        (
            json!({ "op_id": "v2", "kind": "delete", "type": "task", "id": "t1", "base": 1 }),
            "forbidden",
        ),
        (
            json!({ "op_id": "v3", "kind": "update", "type": "payroll", "id": "1", "base": 0, "fields": {} }),
            "forbidden",
        ),
        (
            json!({ "op_id": "pay", "kind": "create", "type": "payroll", "id": "1", "fields": {} }),
            "forbidden",
        ),
    ] {
        let verdict = viewer.write("p", json!([op.clone()])).await.remove(0);
        assert_eq!(
            (&verdict["outcome"], &verdict["code"]),
            (&json!("rejected"), &json!(code)),
            "{op}"
        );
        clean(&verdict);
    }
    let broadcast = json!({ "type": "broadcast", "room": "room:p:screen", "event": "e" });
    assert_eq!(viewer.ask(broadcast).await["code"], "forbidden");
    let rooms = viewer
        .subscribe(json!([
            { "room": "entity:p:payroll:1", "since": 0, "presence": true },
            { "room": "entity:p:payroll:1" },
        ]))
        .await;
    assert!(rooms.iter().all(|room| room["error"]["code"] == "forbidden"), "{rooms:?}");
    clean(&Value::from(rooms));

    // What it may read it gets, and of the rest only that there is something.
    viewer.subscribe(json!([{ "room": "project:p", "since": 0 }])).await;
    assert_eq!(viewer.expect("change").await["entity"]["type"], "task");
    assert_eq!(viewer.expect("advance").await["seq"], 2);
    let listed = site.hub.http("/v1/projects/p/changes?since=0");
    let viewer_token = token("vi", &json!({ "p": "viewer" }));
    let delta: Value = reqwest::Client::new()
        .get(listed)
        .bearer_auth(viewer_token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let types: Vec<_> = delta["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["entity"]["type"].clone())
        .collect();
    assert!(types.iter().all(|kind| kind == "task") && !types.is_empty(), "{delta}");
    site.talk().await;
    site.hub.stop().await;
}

/// Every endpoint, as a method, a path and a body.
fn endpoints() -> Vec<(Method, &'static str, String)> {
    let ops = json!({ "ops": [{ "op_id": "t1", "kind": "create", "type": "task", "id": "t1", "fields": {} }] });
    vec![
        (Method::GET, "/v1/projects/p/changes?since=0", String::new()),
        (Method::GET, "/v1/projects/p/entities/task/t1", String::new()),
        (Method::GET, "/v1/projects/p/entities/task/none", String::new()),
        (Method::GET, "/v1/projects/p/entities/task/t1/explain", String::new()),
        (Method::GET, "/v1/projects/p/conflicts", String::new()),
        (Method::POST, "/v1/projects/p/ops", ops.to_string()),
        (Method::GET, "/v1/rooms/room:p:screen/presence", String::new()),
        (Method::GET, "/v1/rooms/project:p/presence", String::new()),
    ]
}

fn admin_endpoints() -> Vec<(Method, &'static str, String)> {
    vec![
        (Method::GET, "/v1/admin/projects/p/conflicts", String::new()),
        (Method::POST, "/v1/admin/users/insider/disconnect", String::new()),
        (
            Method::POST,
            "/v1/admin/tokens/revoke",
            json!({ "kind": "user", "user": "insider", "issued_before": clock::now_s() + 60 })
                .to_string(),
        ),
    ]
}

fn publish() -> (Method, &'static str, String) {
    let event =
        json!({ "project": "p", "kind": "delete", "entity": { "type": "task", "id": "t1" } });
    (Method::POST, "/v1/publish", event.to_string())
}

async fn refused(
    hub: &TestHub,
    endpoint: &(Method, &str, String),
    token: Option<&str>,
) -> (u16, Value) {
    let (method, path, body) = endpoint;
    let mut request =
        reqwest::Client::new().request(method.clone(), hub.http(path)).body(body.clone());
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
    assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401, "{path}");
    let body = answer.text().await.unwrap();
    clean(&body);
    (status, serde_json::from_str::<Value>(&body).unwrap()["code"].clone())
}

#[tokio::test]
async fn no_endpoint_answers_without_the_right_token() {
    let mut site = Site::start().await;
    revoke_stolen(&site.hub).await;
    let mallory = token("mallory", &json!({ "other": "admin" }));
    for endpoint in endpoints() {
        let path = endpoint.1;
        assert_eq!(
            refused(&site.hub, &endpoint, None).await,
            (401, json!("unauthorized")),
            "{path}"
        );
        assert_eq!(
            refused(&site.hub, &endpoint, Some(&mallory)).await,
            (403, json!("forbidden")),
            "{path}"
        );
        let admin = refused(&site.hub, &endpoint, Some(ADMIN_TOKEN)).await;
        assert_eq!(admin, (401, json!("unauthorized")), "the admin token is no user's: {path}");
        for (what, token, code, _) in bad_tokens() {
            assert_eq!(
                refused(&site.hub, &endpoint, Some(&token)).await,
                (401, json!(code)),
                "{what}: {path}"
            );
        }
    }
    let payroll = (Method::GET, "/v1/projects/p/entities/payroll/1", String::new());
    let viewer = token("vi", &json!({ "p": "viewer" }));
    assert_eq!(refused(&site.hub, &payroll, Some(&viewer)).await, (403, json!("forbidden")));
    for endpoint in admin_endpoints().into_iter().chain([publish()]) {
        let editor = token("insider", &json!({ "p": "admin" }));
        for token in [None, Some("wrong"), Some(&*editor), Some(&ADMIN_TOKEN[1..])] {
            assert_eq!(refused(&site.hub, &endpoint, token).await, (401, json!("unauthorized")));
        }
    }
    let missing = site.hub.metric("syncline_auth_failures_total{reason=\"missing\"}");
    assert_eq!(missing, endpoints().len() as f64, "each was counted");
    let wrong = site.hub.metric("syncline_auth_failures_total{reason=\"admin_token\"}");
    // A request to publish without any token may be one that is signed.
    assert_eq!(wrong, (admin_endpoints().len() * 4 + 3) as f64, "each was counted");
    site.talk().await;
    site.hub.stop().await;
}

#[tokio::test]
async fn without_an_admin_token_there_is_no_admin_api() {
    let hub = TestHub::start_with(|config| config.auth.admin_token.clear()).await;
    for endpoint in admin_endpoints() {
        for token in [None, Some("")] {
            assert_eq!(refused(&hub, &endpoint, token).await, (404, json!("not_found")));
        }
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_connection_does_not_inherit_the_rooms_of_one_that_broke() {
    let hub = TestHub::start_with(|config| {
        config.server.shards = 1;
        config.limits.broadcasts_per_second = 1_000_000;
        config.limits.user_broadcasts_per_second = 1_000_000;
    })
    .await;
    let editor = token("insider", &json!({ "p": "editor" }));
    let (mut talker, url) = (Client::connect(&hub.ws(), &editor).await, hub.ws());
    let talking = tokio::spawn(async move {
        loop {
            let broadcast =
                json!({ "type": "broadcast", "room": "room:p:screen", "event": CANARY });
            assert_eq!(talker.ask(broadcast).await["type"], "ok");
        }
    });
    for _ in 0..100 {
        let mut victim = Raw::open(&url).await;
        victim.upgrade(&editor).await;
        victim
            .send(text(&json!({ "type": "subscribe", "rooms": [{ "room": "room:p:screen" }] })))
            .await;
        victim.expect("event").await;
        victim.reset();
    }
    eventually("the broken connections left their rooms", || async {
        hub.metric("syncline_subscriptions") == 0.0
    })
    .await;
    let mut heir = Raw::open(&url).await;
    heir.upgrade(&token("heir", &json!({ "other": "editor" }))).await;
    heir.expect("connected").await;
    heir.send(text(&json!({ "type": "ping", "id": 1 }))).await;
    let Some(Heard::Text(pong)) = heir.hear().await else { panic!("no answer") };
    assert_eq!(pong["type"], "pong", "{pong}");
    talking.abort();
    hub.stop().await;
}
