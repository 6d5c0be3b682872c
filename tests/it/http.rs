//! The HTTP endpoints: writes, delta sync, single entities, and errors as problem details.

use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::support::client::{Client, create, update};
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};
use crate::support::raw::Raw;
use crate::support::routes;

struct Api<'a> {
    hub: &'a TestHub,
    token: String,
}

impl<'a> Api<'a> {
    fn new(hub: &'a TestHub, role: &str) -> Self {
        Self { hub, token: token("ana", &json!({ "p": role })) }
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = reqwest::Client::new().request(method, self.hub.http(path));
        request.bearer_auth(&self.token).body(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.send(Method::GET, path, "").await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn write(&self, ops: Value) -> Vec<Value> {
        let body = json!({ "ops": ops }).to_string();
        let answer = self.send(Method::POST, "/v1/projects/p/ops", body).await;
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.unwrap();
        answer["verdicts"].as_array().unwrap().clone()
    }

    /// The status, the headers that matter, and the problem.
    async fn problem(&self, method: Method, path: &str, body: &str) -> (u16, Option<u64>, Value) {
        let answer = self.send(method, path, body.to_owned()).await;
        let status = answer.status().as_u16();
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "{path}: {status}"
        );
        let retry =
            answer.headers().get("retry-after").map(|v| v.to_str().unwrap().parse().unwrap());
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status, "{problem}");
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("urn:syncline:error:{code}"));
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        (status, retry, problem)
    }
}

fn delete(op_id: &str, id: &str, base: u64) -> Value {
    json!({ "op_id": op_id, "kind": "delete", "type": "task", "id": id, "base": base })
}

#[tokio::test]
async fn operations_get_the_same_verdicts_as_on_a_socket() {
    let hub = TestHub::start().await;
    let api = Api::new(&hub, "editor");
    let mut socket = Client::connect(&hub.ws(), &api.token).await;
    socket.subscribe(json!([{ "room": "project:p" }])).await;
    let ops = json!([create("1", "t1", &json!({ "a": 1 })), { "op_id": "2" }, create("3", "t3", &json!({}))]);
    let verdicts = api.write(ops.clone()).await;
    assert_eq!(verdicts[0]["outcome"], "applied");
    assert_eq!((&verdicts[1]["outcome"], &verdicts[1]["op_id"]), (&json!("rejected"), &json!("2")));
    assert_eq!(verdicts[2]["seq"], 2);
    assert_eq!(socket.expect("change").await["seq"], 1);
    assert_eq!(socket.expect("change").await["seq"], 2);
    assert_eq!(api.write(ops.clone()).await, verdicts, "once and for all");
    assert_eq!(socket.write("p", ops).await, verdicts, "whichever way");
    assert_eq!(socket.settle().await, [] as [Value; 0]);
    hub.stop().await;
}

#[tokio::test]
async fn delta_pages_end_at_the_state_though_entities_move_meanwhile() {
    let hub = TestHub::start().await;
    let api = Api::new(&hub, "editor");
    let ops: Vec<_> =
        (1..=7).map(|n| create(&format!("c{n}"), &format!("t{n}"), &json!({ "n": n }))).collect();
    api.write(ops.into()).await;
    let (mut state, mut since, mut pages) = (BTreeMap::new(), 0, 0);
    loop {
        let page = api.get(&format!("/v1/projects/p/changes?since={since}&limit=2")).await;
        let changes = page["changes"].as_array().unwrap();
        assert!(changes.len() <= 2);
        for change in changes {
            state.insert(change["entity"]["id"].as_str().unwrap().to_owned(), change.clone());
        }
        assert!(page["resync"].is_null());
        since = page["next"].as_u64().unwrap();
        pages += 1;
        match pages {
            1 => drop(api.write(json!([update("u1", "t1", 1, &json!({ "n": 11 }))])).await),
            2 => drop(api.write(json!([delete("d2", "t2", 2), delete("d6", "t6", 6)])).await),
            _ => {}
        }
        if page["more"] == false {
            break;
        }
    }
    assert!(pages >= 4);
    assert_eq!(since, 10);
    assert_eq!(state["t1"]["fields"], json!({ "n": 11 }));
    assert_eq!((&state["t2"]["deleted"], &state["t6"]["deleted"]), (&json!(true), &json!(true)));
    assert_eq!(state["t7"]["version"], 7);
    let none = api.get("/v1/projects/p/changes?since=10").await;
    assert_eq!(
        (&none["changes"], &none["next"], &none["more"]),
        (&json!([]), &json!(10), &json!(false))
    );
    // The cursor is the same on a socket.
    let mut socket = Client::connect(&hub.ws(), &api.token).await;
    let rooms = socket
        .subscribe(json!([{ "room": "project:p", "since": 9, "epoch": none["epoch"] }]))
        .await;
    assert_eq!(rooms[0]["recovered"], true);
    assert_eq!(socket.expect("change").await["seq"], 10);
    hub.stop().await;
}

#[tokio::test]
async fn a_cursor_of_another_sequence_gets_the_whole_state() {
    let hub = TestHub::start().await;
    let api = Api::new(&hub, "editor");
    api.write(json!([create("1", "t1", &json!({})), create("2", "t2", &json!({}))])).await;
    let other = "00000000-0000-4000-8000-000000000000";
    for query in ["since=99".to_owned(), format!("since=1&epoch={other}")] {
        let delta = api.get(&format!("/v1/projects/p/changes?{query}")).await;
        assert_eq!(delta["resync"], "epoch_changed", "{query}");
        assert_eq!(delta["changes"].as_array().unwrap().len(), 2, "{query}");
        assert_eq!(delta["next"], 2);
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_role_lists_only_what_it_may_read_and_still_gets_on() {
    let hub = TestHub::start_with(|config| {
        config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
    })
    .await;
    let payroll =
        json!({ "op_id": "p", "kind": "create", "type": "payroll", "id": "1", "fields": {} });
    Api::new(&hub, "editor").write(json!([payroll, create("1", "t1", &json!({}))])).await;
    let viewer = Api::new(&hub, "viewer");
    // What it may not read takes no place in its page.
    let page = viewer.get("/v1/projects/p/changes?limit=1").await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 1);
    assert_eq!(page["changes"][0]["entity"], json!({ "type": "task", "id": "t1" }));
    assert_eq!((&page["next"], &page["more"]), (&json!(2), &json!(false)));
    let page = viewer.get("/v1/projects/p/changes?since=2").await;
    assert_eq!((&page["changes"], &page["next"]), (&json!([]), &json!(2)));
    hub.stop().await;
}

#[tokio::test]
async fn an_entity_is_read_alone() {
    let hub = TestHub::start().await;
    let api = Api::new(&hub, "editor");
    api.write(json!([create("1", "t 1é", &json!({ "a": null })), create("2", "t2", &json!({}))]))
        .await;
    api.write(json!([delete("3", "t2", 2)])).await;
    let entity = api.get("/v1/projects/p/entities/task/t%201%C3%A9").await;
    assert_eq!(entity, json!({ "version": 1, "fields": { "a": null } }));
    let gone = api.get("/v1/projects/p/entities/task/t2").await;
    assert_eq!(gone, json!({ "version": 3, "deleted": true, "fields": {} }));
    let (status, _, problem) =
        api.problem(Method::GET, "/v1/projects/p/entities/task/t3", "").await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
    hub.stop().await;
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let hub = TestHub::start_with(|config| {
        config.limits.body_bytes = 2000;
        config.limits.ops_per_write = 3;
    })
    .await;
    let api = Api::new(&hub, "editor");
    let ops = "/v1/projects/p/ops";
    let four = json!({ "ops": [{}, {}, {}, {}] }).to_string();
    let long = format!(r#"{{"ops":["{}"]}}"#, "x".repeat(2000));
    for (method, path, body, status, code) in [
        (Method::POST, ops, "nonsense", 400, "bad_request"),
        (Method::POST, ops, "", 400, "bad_request"),
        (Method::POST, ops, r#"{"ops":{}}"#, 400, "bad_request"),
        (Method::POST, ops, &*long, 413, "limit_exceeded"),
        (Method::POST, ops, &four, 413, "limit_exceeded"),
        (Method::POST, "/v1/projects/a%20b/ops", "{}", 400, "invalid_name"),
        (Method::GET, "/v1/projects/p/changes?since=x", "", 400, "bad_request"),
        (Method::GET, "/v1/projects/p/changes?since=-1", "", 400, "bad_request"),
        (Method::GET, "/v1/projects/p/changes?epoch=x", "", 400, "bad_request"),
        (Method::GET, "/v1/projects/p/entities/Task/1", "", 400, "invalid_name"),
        (Method::GET, "/v1/projects/p/entities/task/%ff", "", 400, "bad_request"),
        (Method::GET, "/v1/rooms/nowhere/presence", "", 400, "invalid_name"),
        (Method::GET, "/v1/none", "", 404, "not_found"),
        (Method::GET, "/", "", 404, "not_found"),
        (Method::DELETE, ops, "", 405, "bad_request"),
        (Method::GET, ops, "", 405, "bad_request"),
        (Method::POST, "/v1/projects/p/changes", "", 405, "bad_request"),
    ] {
        let (got, _, problem) = api.problem(method.clone(), path, body).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{method} {path}: {problem}");
    }
    for (body, limit, value) in [(&four, "ops_per_write", 3), (&long, "body_bytes", 2000)] {
        let (_, _, problem) = api.problem(Method::POST, ops, body).await;
        assert_eq!(problem["extra"], json!({ "limit": limit, "value": value }));
    }
    let named = api.send(Method::GET, "/v1/none", "").await.headers()["x-request-id"].clone();
    let another = api.send(Method::GET, "/v1/none", "").await.headers()["x-request-id"].clone();
    assert_ne!(named, another);
    let refused = api.send(Method::DELETE, ops, "").await;
    assert_eq!(refused.headers()["allow"], "POST");
    let bytes = api.send(Method::POST, ops, vec![0xff, 0xfe]).await;
    assert_eq!(
        (bytes.status().as_u16(), &bytes.headers()["content-type"] == "application/problem+json"),
        (400, true)
    );
    hub.stop().await;
}

#[tokio::test]
async fn a_strangers_long_body_is_not_waited_for() {
    let hub = TestHub::start().await;
    let ask = async |path: &str, more: &str| {
        let mut raw = Raw::open(&hub.ws()).await;
        raw.send(format!("POST {path} HTTP/1.1\r\nHost: hub\r\n{more}\r\n")).await;
        raw.head().await
    };
    let (long, unknown) = ("Content-Length: 16385\r\n", "Transfer-Encoding: chunked\r\n");
    let bad = format!("{long}Authorization: Bearer x.y.z\r\n");
    let forged = format!("{long}X-Syncline-Signature: 00\r\n");
    // The answer comes although nothing of the body ever does.
    for path in ["/v1/projects/p/ops", "/v1/publish", "/v1/push/received", "/v1/none"] {
        for more in [long, unknown, &bad, &forged] {
            let head = ask(path, more).await;
            assert!(head.starts_with("HTTP/1.1 401 "), "{path}: {more}: {head}");
        }
    }
    let api = Api::new(&hub, "editor");
    let long = create("1", "t1", &json!({ "x": "x".repeat(20_000) }));
    assert_eq!(api.write(json!([long])).await[0]["outcome"], "applied");
    let admin = Api { hub: &hub, token: ADMIN_TOKEN.into() };
    let long = json!({ "project": "p", "kind": "update", "entity": { "type": "task", "id": "t1" },
        "fields": { "y": "y".repeat(20_000) } });
    let published = admin.send(Method::POST, "/v1/publish", long.to_string()).await;
    assert_eq!(published.status(), 200, "{:?}", published.text().await);
    hub.stop().await;
}

#[tokio::test]
async fn who_is_too_fast_is_told_how_long_to_wait() {
    let hub = TestHub::start_with(|config| {
        config.limits.user_ops_per_second = 2;
        config.store.queue_ops = 1;
    })
    .await;
    let api = Api::new(&hub, "editor");
    let ops = |ids: &[&str]| {
        let ops: Vec<_> = ids.iter().map(|id| create(id, id, &json!({}))).collect();
        json!({ "ops": ops }).to_string()
    };
    let path = "/v1/projects/p/ops";
    let (status, retry, problem) = api.problem(Method::POST, path, &ops(&["a", "b"])).await;
    assert_eq!((status, retry, &problem["code"]), (503, Some(1), &json!("overloaded")));
    assert_eq!(hub.metric("syncline_drops_total{reason=\"write_queue\"}"), 1.0);
    let refused = loop {
        let answer = api.send(Method::POST, path, ops(&["c"])).await;
        if answer.status() != 200 {
            break answer;
        }
    };
    let status = refused.status().as_u16();
    assert_eq!(status, 429, "{:?}", refused.text().await);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_notification_has_so_many_recipients() {
    let hub = TestHub::start_with(|config| config.limits.notify_users = 2).await;
    let api = Api::new(&hub, "editor");
    let op = |id: &str, users: &[&str]| {
        let mut op = create(id, id, &json!({}));
        op["notify"] = json!({ "users": users, "title": "hi" });
        op
    };
    let verdicts = api.write(json!([op("1", &["a", "b", "c"]), op("2", &["a", "b"])])).await;
    assert_eq!(
        (&verdicts[0]["outcome"], &verdicts[0]["code"]),
        (&json!("rejected"), &json!("limit_exceeded"))
    );
    assert!(
        verdicts[0]["message"].as_str().unwrap().contains("`notify_users` is 2"),
        "{verdicts:?}"
    );
    assert_eq!(verdicts[1]["outcome"], "applied");
    let session = Client::connect(&hub.ws(), &api.token).await;
    assert_eq!(session.hello["limits"]["notify_users"], 2);
    hub.stop().await;
}

/// What a browser is told about a page of this origin.
async fn told(hub: &TestHub, method: Method, origin: &str) -> Response {
    let request = reqwest::Client::new().request(method, hub.http("/v1/projects/p/changes"));
    let request = request.header("origin", origin).header("access-control-request-method", "GET");
    request.header("access-control-request-headers", "authorization").send().await.unwrap()
}

/// The texts in a header that holds a list, or one text.
fn listed(answer: &Response, header: &str) -> Vec<String> {
    let list = answer.headers().get(header).map_or("", |list| list.to_str().unwrap());
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

const ORIGIN: &str = "access-control-allow-origin";

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_read_answers_and_errors() {
    let ours = "https://app.example";
    let hub = TestHub::start_with(|c| c.server.allowed_origins = vec![ours.into()]).await;
    let asked = told(&hub, Method::OPTIONS, ours).await;
    assert_eq!((asked.status().as_u16(), listed(&asked, ORIGIN)), (200, vec![ours.to_owned()]));
    let methods = listed(&asked, "access-control-allow-methods");
    for (method, path) in routes::all() {
        assert!(methods.contains(&method), "no page may {method} {path}");
    }
    let headers = listed(&asked, "access-control-allow-headers");
    assert_eq!(headers, ["authorization", "content-type", "if-none-match", "syncline-user"]);
    let answer = told(&hub, Method::GET, ours).await;
    let readable = (answer.status().as_u16(), listed(&answer, ORIGIN));
    assert_eq!(readable, (401, vec![ours.to_owned()]), "it can read why it was refused");
    assert_eq!(
        listed(&answer, "access-control-expose-headers"),
        ["retry-after", "etag", "x-request-id"]
    );
    for method in [Method::OPTIONS, Method::GET] {
        let answer = told(&hub, method, "https://app.example.evil.example").await;
        assert!(listed(&answer, ORIGIN).is_empty());
    }
    hub.stop().await;

    let hub = TestHub::start().await;
    let answer = told(&hub, Method::OPTIONS, "https://any.example").await;
    assert_eq!(listed(&answer, ORIGIN), ["*"]);
    hub.stop().await;
}

#[tokio::test]
async fn a_request_meant_for_another_user_is_refused_before_it_does_anything() {
    let hub = TestHub::start().await;
    let token = token("jürgen b", &json!({ "p": "editor" }));
    let http = reqwest::Client::new();
    let body = json!({ "ops": [create("1", "t1", &json!({}))] }).to_string();
    let send = async |meant: &str| {
        let request = http.post(hub.http("/v1/projects/p/ops")).bearer_auth(&token);
        let answer = request.header("syncline-user", meant).body(body.clone()).send().await;
        answer.unwrap()
    };
    let refused = send("ana").await;
    assert_eq!(refused.status(), 401);
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "unauthorized");
    let api = Api::new(&hub, "editor");
    assert_eq!(api.get("/v1/projects/p/changes").await["next"], 0);
    assert_eq!(send("j%C3%BCrgen%20b").await.status(), 200);
    assert_eq!(api.get("/v1/projects/p/changes").await["next"], 1);

    // A page may name them, too.
    let asked = http.request(Method::OPTIONS, hub.http("/v1/projects/p/ops"));
    let asked = asked.header("origin", "https://any.example");
    let answer = asked.header("access-control-request-method", "POST").send().await.unwrap();
    let allowed = answer.headers()["access-control-allow-headers"].to_str().unwrap().to_owned();
    assert!(allowed.split(',').any(|name| name == "syncline-user"), "{allowed}");
    hub.stop().await;
}

#[tokio::test]
async fn the_demo_page_and_its_tokens_are_for_development_alone() {
    let hub = TestHub::start().await;
    let api = Api::new(&hub, "editor");
    let user = r#"{"user":"ana"}"#;
    assert_eq!(api.problem(Method::GET, "/", "").await.0, 404);
    assert_eq!(api.problem(Method::POST, "/demo/token", user).await.0, 404);

    let hub = TestHub::start_with(|config| config.server.demo = true).await;
    let api = Api::new(&hub, "editor");
    let page = api.send(Method::GET, "/", "").await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let answer = api.send(Method::POST, "/demo/token", user).await;
    assert!(answer.headers().get("access-control-allow-origin").is_none());
    let answer: Value = answer.json().await.unwrap();
    assert!(answer["token"].as_str().unwrap().split('.').count() == 3);
    let request = reqwest::Client::new().post(hub.http("/demo/token")).body(user);
    let rebound = request.header("host", "rebound.example").send().await.unwrap();
    assert_eq!(rebound.status(), 403);
}

#[tokio::test]
async fn the_demo_pages_push_log_is_for_development_and_for_whom_the_project_is() {
    let hub = TestHub::start().await;
    let api = Api { hub: &hub, token: token("ana", &json!({ "demo": "editor" })) };
    assert_eq!(api.problem(Method::GET, "/demo/pushes", "").await.0, 404);

    let hub = TestHub::start_with(|config| config.server.demo = true).await;
    let api = Api { hub: &hub, token: token("ana", &json!({ "demo": "editor" })) };
    assert_eq!(api.get("/demo/pushes").await, json!([]));
    let op = |n: usize| {
        json!({ "op_id": format!("o{n}"), "kind": "create", "type": "sos", "id": format!("s{n}"), "fields": {},
            "notify": { "users": ["bo"], "title": format!("SOS {n}"), "lane": "critical" } })
    };
    let ops: Vec<Value> = (0..22).map(op).collect();
    let body = json!({ "ops": ops }).to_string();
    assert_eq!(api.send(Method::POST, "/v1/projects/demo/ops", body).await.status(), 200);
    crate::support::eventually("the log provider has them", || async {
        let pushes = api.get("/demo/pushes").await;
        let pushes = pushes.as_array().unwrap();
        pushes.len() == 20 && pushes.iter().all(|push| push["state"] == "handed")
    })
    .await;
    let last = &api.get("/demo/pushes").await[0];
    assert_eq!((&last["title"], &last["user_id"]), (&json!("SOS 21"), &json!("bo")));
    assert!(last["accepted_at"].as_i64() >= last["created_at"].as_i64(), "{last}");

    let elsewhere = Api::new(&hub, "editor");
    assert_eq!(elsewhere.problem(Method::GET, "/demo/pushes", "").await.0, 403);
    let nobody = Api { hub: &hub, token: "none".into() };
    assert_eq!(nobody.problem(Method::GET, "/demo/pushes", "").await.0, 401);
    hub.stop().await;
}
