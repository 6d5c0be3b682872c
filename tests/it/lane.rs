//! The failed lane from end to end: what a role does not allow is kept, tried again once it does, and
//! everybody hears of it; status, the log of requests and the commands that show them.

use std::process::Output;

use reqwest::Method;
use serde_json::{Value, json};
use syncline::config::{Config, Role};
use tokio::process::Command;

use crate::support::client::{Client, create};
use crate::support::eventually;
use crate::support::hub::{self, ADMIN_TOKEN, TestHub, token};
use crate::support::process::{Cluster, Process};

/// Who asks over HTTP.
struct Api {
    base: String,
    token: String,
}

impl Api {
    fn of(hub: &TestHub, user: &str, role: &str) -> Self {
        Self { base: hub.http(""), token: token(user, &json!({ "p": role })) }
    }

    fn admin(hub: &TestHub) -> Self {
        Self { base: hub.http(""), token: ADMIN_TOKEN.into() }
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.base));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = request.bearer_auth(&self.token).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask(Method::POST, path, &body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn write(&self, client: &str, ops: Value) -> Vec<Value> {
        let body = json!({ "client": client, "ops": ops });
        list(&self.post("/v1/projects/p/ops", body).await, "verdicts")
    }

    async fn retry(&self, op_ids: Option<Value>) -> Vec<Value> {
        let mut body = json!({ "project": "p" });
        if let Some(op_ids) = op_ids {
            body["op_ids"] = op_ids;
        }
        list(&self.post("/v1/sync/failed/retry", body).await, "verdicts")
    }

    async fn failed(&self) -> Vec<Value> {
        list(&self.get("/v1/sync/failed?project=p").await, "failed")
    }

    /// The code of a request that is refused.
    async fn refused(&self, method: Method, path: &str, body: Value) -> String {
        let (status, answer) = self.ask(method, path, &body).await;
        assert!(status >= 400, "{path}: {answer}");
        answer["code"].as_str().unwrap().to_owned()
    }
}

fn list(answer: &Value, name: &str) -> Vec<Value> {
    answer[name].as_array().unwrap_or_else(|| panic!("no {name}: {answer}")).clone()
}

fn column(rows: &[Value], name: &str) -> Vec<String> {
    rows.iter().map(|row| row[name].as_str().unwrap_or("-").to_owned()).collect()
}

#[tokio::test]
async fn what_a_role_did_not_allow_is_applied_once_it_does_and_devices_hear() {
    let hub = TestHub::start().await;
    let viewer = Api::of(&hub, "ana", "viewer");
    let editor = Api::of(&hub, "ana", "editor");
    let mut device = Client::connect(&hub.ws(), &editor.token).await;
    let mut other = Client::connect(&hub.ws(), &token("ben", &json!({ "p": "viewer" }))).await;
    other.subscribe(json!([{ "room": "project:p" }])).await;

    // Made offline under a name of the client's own, and edited under it.
    let made = create("z", "local:roof", &json!({ "n": 1 }));
    let edited = json!({ "op_id": "a", "kind": "update", "type": "task", "id": "local:roof",
        "base": 0, "fields": { "n": 2 }, "edited_at": 1_000 });
    // By a clock that is an hour behind.
    let sent_at = syncline::clock::now_ms() - 3_600_000;
    let body = json!({ "client": "phone-1", "sent_at": sent_at, "ops": [made, edited] });
    let verdicts = list(&viewer.post("/v1/projects/p/ops", body).await, "verdicts");
    assert_eq!(column(&verdicts, "code"), ["forbidden", "forbidden"]);
    let failed = viewer.failed().await;
    assert_eq!(column(&failed, "op_id"), ["z", "a"]);
    assert_eq!((&failed[0]["client"], &failed[0]["role"]), (&json!("phone-1"), &json!("viewer")));
    assert_eq!((&failed[0]["op"]["id"], &failed[0]["attempts"]), (&json!("local:roof"), &json!(1)));
    assert!(failed[0]["message"].as_str().unwrap().contains("may not write"), "{failed:?}");

    // As long as the role is what it was, nothing but the count of attempts changes.
    assert_eq!(column(&viewer.retry(None).await, "code"), ["forbidden", "forbidden"]);
    assert_eq!(viewer.failed().await[1]["attempts"], 2);
    assert_eq!(device.expect("verdict").await["verdict"]["outcome"], "rejected");
    assert_eq!(device.expect("verdict").await["verdict"]["outcome"], "rejected");

    let verdicts = editor.retry(None).await;
    assert_eq!(column(&verdicts, "outcome"), ["applied", "applied"]);
    assert_eq!(verdicts[0]["local_id"], "local:roof");
    let id = verdicts[0]["id"].as_str().unwrap();
    for verdict in &verdicts {
        let heard = device.expect("verdict").await;
        assert_eq!((&heard["project"], &heard["verdict"]), (&json!("p"), verdict));
        let change = other.expect("change").await;
        assert_eq!((&change["seq"], &change["entity"]["id"]), (&verdict["seq"], &json!(id)));
    }
    assert!(editor.failed().await.is_empty());
    let why = format!("/v1/projects/p/entities/task/{id}/explain?field=n");
    let set = editor.get(&why).await["fields"][0]["set"].clone();
    assert_eq!(set["client"], "phone-1");
    assert!((3_601_000..4_000_000).contains(&set["edited_at"].as_i64().unwrap()), "{set}");
    // The name is still the installation's.
    let more = json!({ "op_id": "m", "kind": "update", "type": "task", "id": "local:roof",
        "base": 2, "fields": { "n": 3 } });
    assert_eq!(editor.write("phone-1", json!([more])).await[0]["id"], id);

    // Tried again, nothing happens; sent again, it is the same.
    assert!(editor.retry(None).await.is_empty());
    assert_eq!(editor.retry(Some(json!(["z"]))).await, verdicts[..1]);
    assert_eq!(editor.write("phone-1", json!([made])).await, verdicts[..1]);
    assert_eq!(other.expect("change").await["seq"], 3);
    assert!(other.settle().await.is_empty() && device.settle().await.is_empty());
    assert_eq!(hub.metric("syncline_retries_total{outcome=\"applied\"}"), 2.0);
    assert_eq!(hub.metric("syncline_rejections_total{code=\"forbidden\"}"), 4.0);
    hub.stop().await;
}

#[tokio::test]
async fn what_was_too_large_is_applied_once_the_limit_is_raised() {
    let hub = TestHub::start_with(|config| config.limits.op_fields = 1).await;
    let api = Api::of(&hub, "ana", "editor");
    let op = create("1", "t", &json!({ "a": 1, "b": 2 }));
    assert_eq!(column(&api.write("c", json!([op])).await, "code"), ["limit_exceeded"]);
    assert_eq!(column(&api.retry(None).await, "code"), ["limit_exceeded"]);
    let dir = hub.stop().await;

    let url = format!("sqlite:{}", dir.path().join("hub.db").display());
    let hub = TestHub::start_with(|config| config.store.url = url).await;
    let waiting = async || hub.metric("syncline_failed_ops") == 1.0;
    eventually("what waits is counted", waiting).await;
    let api = Api::of(&hub, "ana", "editor");
    assert_eq!(column(&api.retry(None).await, "outcome"), ["applied"]);
    hub.stop().await;
}

#[tokio::test]
async fn what_is_sent_in_the_place_of_another_takes_it_out_of_the_lane() {
    let hub = TestHub::start().await;
    let (viewer, editor) = (Api::of(&hub, "ana", "viewer"), Api::of(&hub, "ana", "editor"));
    let first = create("1", "t1", &json!({ "n": 2 }));
    assert_eq!(column(&viewer.write("phone", json!([first])).await, "code"), ["forbidden"]);
    let mut second = create("2", "t1", &json!({ "n": 2 }));
    second["replaces"] = json!("1");
    assert_eq!(column(&editor.write("phone", json!([second])).await, "outcome"), ["applied"]);
    assert!(editor.failed().await.is_empty());
    // An operator who still has it in mind changes nothing.
    let named = editor.retry(Some(json!(["1"]))).await;
    assert_eq!(column(&named, "code"), ["forbidden"]);
    assert_eq!(editor.write("phone", json!([second])).await[0]["seq"], 1);
    hub.stop().await;
}

#[tokio::test]
async fn what_is_there_of_a_group_takes_effect_together_or_not_at_all() {
    let hub = TestHub::start_with(|config| {
        let role = Role { read: vec!["*".into()], write: vec!["task".into()], ..Role::default() };
        config.roles.0.insert("tasks".into(), role);
        config.limits.ops_per_write = 200;
    })
    .await;
    let (api, editor) = (Api::of(&hub, "ana", "tasks"), Api::of(&hub, "ana", "editor"));
    let made = |op_id: &str, kind: &str| json!({ "op_id": op_id, "kind": "create", "type": kind, "id": op_id });
    let grouped = |op_id: &str, kind: &str| {
        let mut op = made(op_id, kind);
        op["group"] = json!("g");
        op
    };
    // So many before the group that it begins on the first page of a retry and ends on the second.
    let mut ops: Vec<_> = (0..98).map(|n| made(&format!("n{n}"), "note")).collect();
    ops.extend([grouped("debit", "task"), grouped("fee", "task"), grouped("credit", "note")]);
    assert_eq!(api.write("c", ops.into()).await.len(), 101);
    assert_eq!(api.failed().await.len(), 100, "as many as one page lists");
    let first = api.post("/v1/sync/failed/retry", json!({ "project": "p" })).await;
    assert_eq!(first["verdicts"].as_array().unwrap().len(), 98, "the group is not torn apart");
    let rest = json!({ "project": "p", "after": first["next"] });
    let rest = api.post("/v1/sync/failed/retry", rest).await;
    let verdicts = rest["verdicts"].as_array().unwrap();
    assert_eq!(column(verdicts, "code"), ["group_failed", "group_failed", "forbidden"]);
    let head = hub.hub().store.open_project(&"p".parse().unwrap()).await.unwrap().head;
    assert_eq!(head.0, 0, "nothing of it took effect");
    assert_eq!(column(&editor.retry(None).await, "outcome"), ["applied"; 98]);
    assert_eq!(column(&editor.retry(None).await, "outcome"), ["applied"; 3]);
    hub.stop().await;
}

#[tokio::test]
async fn one_of_a_group_is_tried_alone_if_it_is_named_and_what_is_cleared_keeps_its_verdict() {
    let hub = TestHub::start_with(|config| {
        let role = Role { read: vec!["*".into()], write: vec!["task".into()], ..Role::default() };
        config.roles.0.insert("tasks".into(), role);
    })
    .await;
    let api = Api::of(&hub, "ana", "tasks");
    let grouped = |op_id: &str, kind: &str| json!({ "op_id": op_id, "kind": "create", "type": kind, "id": op_id, "group": "g" });
    let ops = json!([grouped("1", "task"), grouped("2", "note")]);
    let first = api.write("c", ops.clone()).await;
    assert_eq!(column(&first, "code"), ["group_failed", "forbidden"]);
    let verdicts = api.retry(Some(json!(["1"]))).await;
    assert_eq!((&verdicts[0]["outcome"], &verdicts[0]["seq"]), (&json!("applied"), &json!(1)));

    let clear = json!({ "project": "p", "op_ids": ["2", "1"] });
    assert_eq!(api.post("/v1/sync/failed/clear", clear.clone()).await["cleared"], 1);
    assert_eq!(api.post("/v1/sync/failed/clear", clear).await["cleared"], 0);
    assert!(api.failed().await.is_empty());
    assert_eq!(api.retry(Some(json!(["2"]))).await, first[1..], "it cannot be tried again");
    assert_eq!(api.write("c", json!([grouped("2", "note")])).await, first[1..]);
    hub.stop().await;
}

#[tokio::test]
async fn requests_that_name_their_groups_alike_are_tried_apart() {
    let hub = TestHub::start_with(|config| {
        for (name, write) in [("tasks", &["task"][..]), ("notes", &["task", "note"])] {
            let write = write.iter().map(|kind| (*kind).to_owned()).collect();
            let role = Role { read: vec!["*".into()], write, ..Role::default() };
            config.roles.0.insert(name.into(), role);
        }
    })
    .await;
    let (api, better) = (Api::of(&hub, "ana", "tasks"), Api::of(&hub, "ana", "notes"));
    for (first, second) in [(("1", "task"), ("2", "note")), (("3", "task"), ("4", "photo"))] {
        let op = |(op_id, kind)| json!({ "op_id": op_id, "kind": "create", "type": kind, "id": op_id, "group": "g" });
        let verdicts = api.write("c", json!([op(first), op(second)])).await;
        assert_eq!(column(&verdicts, "code"), ["group_failed", "forbidden"]);
    }
    let outcomes = better.retry(None).await;
    assert_eq!(column(&outcomes, "outcome"), ["applied", "applied", "rejected", "rejected"]);
    hub.stop().await;
}

#[tokio::test]
async fn the_lane_is_the_users_own_and_everything_asked_of_it_is_bounded() {
    let hub = TestHub::start_with(|config| config.limits.ops_per_write = 150).await;
    let (viewer, ben) = (Api::of(&hub, "ana", "viewer"), Api::of(&hub, "ben", "editor"));
    let ops: Vec<_> = (0..130).map(|n| create(&format!("o{n}"), "t", &json!({}))).collect();
    viewer.write("c", ops.into()).await;

    assert!(ben.failed().await.is_empty());
    assert!(ben.retry(Some(json!(["o1"]))).await.is_empty(), "as if it did not exist");
    let clear = json!({ "project": "p", "op_ids": ["o1"] });
    assert_eq!(ben.post("/v1/sync/failed/clear", clear).await["cleared"], 0);

    // One request decides a page; the next goes on behind it, whatever became of it.
    let page = viewer.post("/v1/sync/failed/retry", json!({ "project": "p" })).await;
    assert_eq!(list(&page, "verdicts").len(), 100);
    let rest = json!({ "project": "p", "after": page["next"] });
    let page = viewer.post("/v1/sync/failed/retry", rest).await;
    assert_eq!(list(&page, "verdicts").len(), 30);
    assert!(page["next"].is_null(), "{page}");
    let page = viewer.get("/v1/sync/failed?project=p&limit=1000").await;
    let rest = page["next"].as_str().unwrap();
    assert_eq!(list(&page, "failed").len(), 100);
    let rest = viewer.get(&format!("/v1/sync/failed?project=p&after={rest}")).await;
    assert_eq!(list(&rest, "failed").len(), 30);

    let many: Vec<_> = (0..151).map(|n| n.to_string()).collect();
    let get = async |path: &str| viewer.refused(Method::GET, path, Value::Null).await;
    let post = async |path: &str, body| viewer.refused(Method::POST, path, body).await;
    for path in ["/v1/sync/failed/retry", "/v1/sync/failed/clear"] {
        let body = json!({ "project": "p", "op_ids": many });
        assert_eq!(post(path, body).await, "limit_exceeded");
        assert_eq!(post(path, json!({ "project": "other" })).await, "forbidden");
        assert_eq!(post(path, json!({})).await, "bad_request");
        assert_eq!(post(path, json!({ "project": "p", "op_ids": ["a:b"] })).await, "bad_request");
    }
    let nowhere = json!({ "project": "p", "after": "nowhere" });
    assert_eq!(post("/v1/sync/failed/retry", nowhere).await, "bad_request");
    assert_eq!(get("/v1/sync/failed?project=p&after=nowhere").await, "bad_request");
    for path in ["/v1/sync/failed", "/v1/sync/log"] {
        assert_eq!(get(path).await, "bad_request");
        assert_eq!(get(&format!("{path}?project=other")).await, "forbidden");
    }
    assert_eq!(get("/v1/sync/status?project=other").await, "forbidden");
    let admin = "/v1/admin/projects/p/sync";
    for path in ["status", "failed", "log"] {
        assert_eq!(get(&format!("{admin}/{path}")).await, "unauthorized");
    }
    for path in ["retry", "clear"] {
        let path = format!("{admin}/failed/{path}");
        assert_eq!(post(&path, json!({ "user": "ana" })).await, "unauthorized");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_page_that_would_be_too_large_is_cut() {
    let hub = TestHub::start_with(|config| {
        config.limits.body_bytes = 20_000;
        config.limits.frame_bytes = 20_000;
        config.limits.op_bytes = 10_000;
    })
    .await;
    let api = Api::of(&hub, "ana", "viewer");
    for n in 0..5 {
        let fields = json!({ "text": "x".repeat(8000) });
        api.write("c", json!([create(&format!("o{n}"), "t", &fields)])).await;
    }
    let page = api.get("/v1/sync/failed?project=p").await;
    assert_eq!(column(&list(&page, "failed"), "op_id"), ["o0", "o1"]);
    let next = page["next"].as_str().unwrap();
    let page = api.get(&format!("/v1/sync/failed?project=p&after={next}")).await;
    assert_eq!(column(&list(&page, "failed"), "op_id"), ["o2", "o3"]);
    hub.stop().await;
}

#[tokio::test]
async fn an_administrator_retries_under_the_role_of_then_or_a_named_one() {
    let hub = TestHub::start_with(|config| {
        let hidden = [("task".to_owned(), vec!["salary".to_owned()])].into();
        let role =
            Role { read: vec!["*".into()], write: vec!["*".into()], hidden, ..Role::default() };
        config.roles.0.insert("clerk".into(), role);
        let role = Role { read: vec!["*".into()], write: vec!["task".into()], ..Role::default() };
        config.roles.0.insert("tasks".into(), role);
    })
    .await;
    let (viewer, admin) = (Api::of(&hub, "ana", "viewer"), Api::admin(&hub));
    let boss = Api::of(&hub, "boss", "admin");
    boss.write("desk", json!([create("s", "t1", &json!({ "n": 0, "salary": 7 }))])).await;
    let mut device = Client::connect(&hub.ws(), &viewer.token).await;
    let update = json!({ "op_id": "1", "kind": "update", "type": "task", "id": "t1", "base": 0,
        "fields": { "n": 5 } });
    let note = json!({ "op_id": "3", "kind": "create", "type": "note", "id": "n", "fields": {} });
    viewer.write("c", json!([update, note])).await;

    let path = "/v1/admin/projects/p/sync/failed";
    let retry = async |body: Value| admin.post(&format!("{path}/retry"), body).await;
    let verdicts = list(&retry(json!({ "user": "ana" })).await, "verdicts");
    assert_eq!(column(&verdicts, "code"), ["forbidden"; 2], "a viewer is still one");
    assert_eq!(list(&retry(json!({ "user": "ben" })).await, "verdicts"), [] as [Value; 0]);
    for wrong in [json!({}), json!({ "user": "ana", "role": "king" })] {
        assert_eq!(
            admin.refused(Method::POST, &format!("{path}/retry"), wrong).await,
            "bad_request"
        );
    }
    // Somebody else's value stands; the verdict shows the entity as far as the role sees it.
    let named = json!({ "user": "ana", "role": "tasks", "op_ids": ["3"] });
    let denied = list(&retry(named).await, "verdicts");
    assert_eq!(column(&denied, "code"), ["forbidden"]);
    assert_eq!(list(&admin.get(path).await, "failed")[1]["role"], "viewer", "it was named once");
    let named = json!({ "user": "ana", "role": "clerk", "op_ids": ["1"] });
    let verdicts = list(&retry(named).await, "verdicts");
    assert_eq!(verdicts[0]["outcome"], "superseded", "{verdicts:?}");
    assert_eq!(verdicts[0]["current"]["fields"], json!({ "n": 0 }));
    // Other devices may see less than that.
    let superseded = |frame: &Value| frame["verdict"]["outcome"] == "superseded";
    let heard = device.find("the verdict", superseded).await;
    assert!(heard["verdict"]["current"].is_null(), "{heard}");

    viewer.write("c", json!([create("2", "t2", &json!({}))])).await;
    let of = |answer: &Value| column(&list(answer, "failed"), "user");
    assert_eq!(of(&admin.get(path).await), ["ana"; 2]);
    assert_eq!(of(&admin.get(&format!("{path}?user=ben")).await), [] as [&str; 0]);
    let cleared = admin.post(&format!("{path}/clear"), json!({ "user": "ana" })).await;
    assert_eq!(cleared["cleared"], 2);
    hub.stop().await;
}

#[tokio::test]
async fn an_administrator_retries_under_the_role_that_is_stored_if_there_is_one() {
    let hub = TestHub::start().await;
    let admin = Api::admin(&hub);
    let failed = "/v1/admin/projects/p/sync/failed/retry";
    let retry = async |user: &str, op: &str| {
        let body = json!({ "user": user, "op_ids": [op] });
        list(&admin.post(failed, body).await, "verdicts")[0].clone()
    };
    let member = async |method: Method, user: &str, role: &Value| {
        let url = format!("{}/v1/admin/projects/p/members/{user}", admin.base);
        let request = reqwest::Client::new().request(method, url).bearer_auth(&admin.token);
        let answer = request.body(role.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 204);
    };
    let sent = async |api: &Api, op: &str| {
        let rejected = api.write("c", json!([create(op, op, &json!({}))])).await;
        assert_eq!(rejected[0]["code"], "forbidden");
    };
    // Sent as a viewer, who was made an editor since.
    sent(&Api::of(&hub, "ana", "viewer"), "a").await;
    member(Method::PUT, "ana", &json!({ "role": "editor" })).await;
    assert_eq!(retry("ana", "a").await["outcome"], "applied");
    // Sent under a role that may not write, by one who was taken out since: nothing of hers is decided.
    let ben = Api::of(&hub, "ben", "viewer");
    sent(&ben, "b").await;
    member(Method::DELETE, "ben", &Value::Null).await;
    let taken_out = retry("ben", "b").await;
    assert_eq!(taken_out["code"], "forbidden");
    let message = taken_out["message"].as_str().unwrap();
    assert!(message.contains("name one as `role`"), "{message}");
    // Nothing is stored of her any more: the role of then.
    member(Method::DELETE, "ben?forget=true", &Value::Null).await;
    let as_then = retry("ben", "b").await;
    assert_eq!(as_then["code"], "forbidden");
    assert_ne!(as_then["message"], taken_out["message"]);
    // And a role that is named goes before all.
    let named = json!({ "user": "ben", "op_ids": ["b"], "role": "editor" });
    assert_eq!(list(&admin.post(failed, named).await, "verdicts")[0]["outcome"], "applied");
    hub.stop().await;
}

#[tokio::test]
async fn a_request_that_is_refused_as_a_whole_is_logged_within_the_rate_of_its_user() {
    let hub = TestHub::start_with(|config| {
        config.limits.ops_per_write = 2;
        config.limits.user_ops_per_second = 2;
    })
    .await;
    let ana = Api::of(&hub, "ana", "editor");
    let path = "/v1/projects/p/ops";
    let ops: Vec<_> = (0..3).map(|n| create(&format!("{n}"), "t", &json!({}))).collect();
    let many = json!({ "client": "phone", "ops": ops });
    assert_eq!(ana.refused(Method::POST, path, many).await, "limit_exceeded");
    let changed = json!({ "client": "phone", "ops": ops[..1], "checksum": "00000000" });
    assert_eq!(ana.refused(Method::POST, path, changed.clone()).await, "checksum_mismatch");
    assert_eq!(ana.refused(Method::POST, path, json!({ "ops": 7 })).await, "bad_request");
    let mut socket = Client::connect(&hub.ws(), &ana.token).await;
    socket.ask(json!({ "type": "connect", "client": "tab" })).await;
    let refused = socket.ask(json!({ "type": "write", "project": "p", "ops": ops })).await;
    assert_eq!(refused["code"], "limit_exceeded");
    // Who is beyond the own rate leaves no more records; others do.
    for _ in 0..100 {
        ana.refused(Method::POST, path, changed.clone()).await;
    }
    let ben = Api::of(&hub, "ben", "editor");
    assert_eq!(ben.refused(Method::POST, path, changed.clone()).await, "checksum_mismatch");
    let log = async || list(&ben.get("/v1/sync/log?project=p").await, "log");
    eventually("the last record is written", || async { !log().await.is_empty() }).await;
    let mut records = list(&ana.get("/v1/sync/log?project=p").await, "log");
    assert!((4..60).contains(&records.len()), "{}", records.len());
    records.reverse();
    let kept: Vec<_> = records[..4]
        .iter()
        .map(|record| json!([record["client"], record["result"], record["ops"]]))
        .collect();
    let expected = [
        json!(["phone", "limit_exceeded", 3]),
        json!(["phone", "checksum_mismatch", 1]),
        json!(["ana", "bad_request", 0]),
        json!(["tab", "limit_exceeded", 3]),
    ];
    assert_eq!(kept, expected);
    hub.stop().await;
}

#[tokio::test]
async fn requests_are_logged_and_the_status_shows_the_last() {
    let hub = TestHub::start().await;
    let (viewer, editor) = (Api::of(&hub, "ana", "viewer"), Api::of(&hub, "ana", "editor"));
    let claims = json!({ "sub": "ana", "projects": { "p": "editor", "q": "viewer" },
        "device": "tablet", "exp": syncline::clock::now_s() + 100 });
    let mut device = Client::connect(&hub.ws(), &hub::token_with(&claims)).await;
    device.ask(json!({ "type": "connect", "client": "tab-1" })).await;
    device.write("p", json!([create("1", "t1", &json!({})), { "op_id": "broken" }])).await;
    device.send(&json!({ "type": "ack", "project": "p", "seq": 1 })).await;
    viewer.write("phone-1", json!([create("2", "t2", &json!({}))])).await;
    viewer.write("phone-1", json!([create("2", "t2", &json!({}))])).await;
    editor.retry(None).await;
    editor.retry(Some(json!(["2"]))).await;

    let log = async || list(&viewer.get("/v1/sync/log?project=p").await, "log");
    eventually("five records", || async { log().await.len() == 5 }).await;
    let rows: Vec<_> = log()
        .await
        .iter()
        .rev()
        .map(|r| {
            let counts = ["ops", "applied", "rejected", "replayed"].map(|n| r[n].as_u64().unwrap());
            assert!(r["duration_ms"].is_u64() && r["at"].is_u64() && r["bytes"].is_u64(), "{r}");
            assert_eq!((&r["user"], &r["result"]), (&json!("ana"), &json!("ok")));
            (r["kind"].clone(), r["client"].clone(), r["device"].clone(), counts)
        })
        .collect();
    assert_eq!(
        rows,
        [
            (json!("write"), json!("tab-1"), json!("tablet"), [2, 1, 1, 0]),
            (json!("write"), json!("phone-1"), Value::Null, [1, 0, 1, 0]),
            (json!("write"), json!("phone-1"), Value::Null, [1, 0, 0, 1]),
            (json!("retry"), json!("phone-1"), Value::Null, [1, 1, 0, 0]),
            (json!("retry"), json!("phone-1"), Value::Null, [1, 0, 0, 1]),
        ]
    );
    let page = viewer.get("/v1/sync/log?project=p&limit=2").await;
    let rest = page["next"].as_str().unwrap();
    let rest = viewer.get(&format!("/v1/sync/log?project=p&before={rest}&limit=9")).await;
    assert_eq!(list(&rest, "log").len(), 3);

    let path = "/v1/admin/projects/p/sync/status?user=ana";
    let admin = Api::admin(&hub);
    let devices = async || list(&admin.get(path).await["projects"][0], "devices");
    eventually("an acknowledgement", || async { !devices().await.is_empty() }).await;
    let mine = Api { base: hub.http(""), token: hub::token_with(&claims) };
    let status = mine.get("/v1/sync/status").await;
    let (p, q) = (&status["projects"][0], &status["projects"][1]);
    assert_eq!((&p["project"], &q["project"]), (&json!("p"), &json!("q")));
    assert_eq!((&p["head"], &p["failed"], &p["open_conflicts"]), (&json!(2), &json!(0), &json!(0)));
    assert_eq!(p["last_batch"]["kind"], "retry");
    assert_eq!(
        (&p["devices"][0]["client"], &p["devices"][0]["behind"]),
        (&json!("tab-1"), &json!(1))
    );
    assert_eq!((&q["head"], &q["epoch"], &q["devices"]), (&json!(0), &Value::Null, &json!([])));
    let ben = Api::of(&hub, "ben", "editor").get("/v1/sync/status?project=p").await;
    assert_eq!(
        (&ben["projects"][0]["head"], &ben["projects"][0]["last_batch"]),
        (&json!(2), &Value::Null)
    );
    hub.stop().await;
}

#[tokio::test]
async fn the_log_of_requests_can_be_off_and_a_shutdown_loses_nothing_of_it() {
    let hub = TestHub::start().await;
    let api = Api::of(&hub, "ana", "editor");
    api.write("c", json!([create("1", "t", &json!({}))])).await;
    let dir = hub.stop().await;

    let url = format!("sqlite:{}", dir.path().join("hub.db").display());
    let hub = TestHub::start_with(|config| {
        config.store.url = url;
        config.store.sync_log = false;
    })
    .await;
    let api = Api::of(&hub, "ana", "editor");
    api.write("c", json!([create("2", "t2", &json!({}))])).await;
    let log = list(&api.get("/v1/sync/log?project=p").await, "log");
    assert_eq!(log.len(), 1, "written by the hub before: {log:?}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_retry_at_once_and_the_devices_of_both_hear() {
    let cluster = Cluster::start(|_| {}).await;
    let [one, two, ..] = &cluster.instances[..] else { panic!("two instances") };
    let editor = token("ana", &json!({ "p": "editor" }));
    let viewer = token("ana", &json!({ "p": "viewer" }));
    let mut writer = Client::connect(&one.ws(), &viewer).await;
    let ops: Vec<_> =
        (0..30).map(|n| create(&format!("o{n}"), &format!("t{n}"), &json!({}))).collect();
    writer.write("p", ops.into()).await;
    cluster.linked().await;
    let mut devices =
        [Client::connect(&one.ws(), &editor).await, Client::connect(&two.ws(), &editor).await];

    let base = |process: &Process| process.ws().replace("ws://", "http://").replace("/v1/ws", "");
    let apis = [one, two].map(|process| Api { base: base(process), token: editor.clone() });
    let (a, b) = tokio::join!(apis[0].retry(None), apis[1].retry(None));
    // Whoever came late may have found nothing, or verdicts already given.
    for verdicts in [&a, &b] {
        assert!(verdicts.iter().all(|verdict| verdict["outcome"] == "applied"), "{verdicts:?}");
    }
    let longer = if a.len() > b.len() { &a } else { &b };
    assert_eq!(longer.len(), 30);
    let status = apis[1].get("/v1/sync/status?project=p").await;
    assert_eq!(
        (&status["projects"][0]["head"], &status["projects"][0]["failed"]),
        (&json!(30), &json!(0))
    );
    for device in &mut devices {
        for _ in 0..30 {
            assert_eq!(device.expect("verdict").await["verdict"]["outcome"], "applied");
        }
    }
}

/// Runs `syncline sync …`, with a configuration and perhaps a user's token.
async fn command(config: &Config, token: Option<&str>, line: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("syncline.toml");
    std::fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    command.arg("--config").arg(file).arg("sync").args(line.split_whitespace()).env_clear();
    if let Some(token) = token {
        command.env("SYNCLINE_TOKEN", token);
    }
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_retry_and_clear_from_the_command_line() {
    let hub = TestHub::start().await;
    let viewer = Api::of(&hub, "ana", "viewer");
    viewer
        .write("phone-1", json!([create("1", "t1", &json!({})), create("2", "t2", &json!({}))]))
        .await;
    let mut config = hub::config(hub.dir.path());
    config.server.listen = hub.http("").trim_start_matches("http://").parse().unwrap();
    let run = async |token: Option<&str>, line: &str| {
        let output = command(&config, token, line).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    };

    let (code, out, _) = run(None, "status --project p --user ana").await;
    assert!(code == 0 && out.contains("  failed          2, the oldest from 20"), "{out}");
    let (code, out, _) = run(None, "failed --project p").await;
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{out}");
    assert!(lines[1].contains("create task t1") && lines[1].contains("forbidden"), "{out}");
    let (code, out, _) = run(None, "failed --project p --limit 1 --json").await;
    let one: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &one["op_id"]), (0, &json!("1")));

    let (code, out, _) = run(None, "retry --project p --user ana").await;
    assert!(code == 1 && out.ends_with("2 rejected\n"), "{out}");
    let (code, out, _) = run(None, "retry --project p --user ana --role editor --op 1").await;
    assert!(code == 0 && out.ends_with("1 applied\n"), "{out}");
    let (code, out, _) = run(None, "clear-failed --project p --user ana").await;
    assert_eq!((code, &*out), (0, "1 cleared\n"));
    let (code, out, _) = run(Some(&viewer.token), "failed --project p").await;
    assert_eq!((code, &*out), (0, "no failed operations\n"));
    let (code, out, _) = run(Some(&viewer.token), "status --json").await;
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["project"], &status["head"]), (0, &json!("p"), &json!(1)));
    eventually("the log", || async {
        let (code, out, _) = run(None, "log --project p").await;
        code == 0 && out.lines().count() == 4 && out.contains("2 rejected")
    })
    .await;

    for (token, line, told) in [
        (None, "retry --project p", "name the user: --user"),
        (None, "status", "name the project: --project"),
        (Some(&*viewer.token), "failed --project p --user ben", "leave out --user"),
        (Some(&*viewer.token), "retry --project p --role editor", "--role needs the admin token"),
        (Some(&*viewer.token), "failed --project q", "does not grant this (forbidden)"),
        (None, "failed --project p --url http://127.0.0.1:1", "no answer from"),
    ] {
        let (code, _, error) = run(token, line).await;
        assert!(code == 1 && error.contains(told), "{line}: {error}");
        assert!(!error.contains(ADMIN_TOKEN) && !error.contains(&viewer.token), "{error}");
    }
    config.auth.admin_token = String::new();
    let output = command(&config, None, "failed --project p").await;
    assert!(String::from_utf8_lossy(&output.stderr).contains("no token"), "{output:?}");
    hub.stop().await;
}
