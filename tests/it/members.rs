//! Who is in a project: changed by administrators and backends, in force at once on every instance.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use syncline::auth::{Claims, Command, authorize};
use syncline::config::{Config, Memberships};
use syncline::protocol::error::ErrorCode;
use syncline::store::{LaneQuery, Membership, Standing};

use crate::support::client::{Client, create, update};
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};
use crate::support::proxy::Proxy;
use crate::support::{eventually, postgres, redis};

/// A viewer reads tasks without their salary; an editor everything.
fn roles(config: &mut Config) {
    let viewer = config.roles.0.get_mut("viewer").unwrap();
    viewer.read = vec!["task".into()];
    viewer.hidden = [("task".to_owned(), vec!["salary".to_owned()])].into();
    config.limits.recent_bytes = 1;
}

async fn start_at(store: &str, bus: &str) -> TestHub {
    TestHub::start_with(|config| {
        roles(config);
        config.store.url = store.into();
        config.bus.url = bus.into();
    })
    .await
}

/// One whose bus no poll of the store comes to the help of.
async fn start_unpolled(database: &str, redis: &redis::Server) -> TestHub {
    TestHub::start_with(|config| {
        roles(config);
        config.store.url = database.into();
        config.bus.url = redis.url();
        config.bus.head_poll = Duration::from_secs(3600);
    })
    .await
}

async fn linked(hubs: [&TestHub; 2]) {
    eventually("the bus is up", || async { hubs.iter().all(|hub| hub.hub().relay.bus.link_up()) })
        .await;
}

async fn admin(hub: &TestHub, method: Method, path: &str, body: &str) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, hub.http(path));
    let answer = request.bearer_auth(ADMIN_TOKEN).body(body.to_owned()).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

async fn give(hub: &TestHub, user: &str, role: &str) {
    let (path, body) = (format!("/v1/admin/projects/p/members/{user}"), json!({ "role": role }));
    let answer = admin(hub, Method::PUT, &path, &body.to_string()).await;
    assert_eq!(answer.0, 204, "{}", answer.1);
}

async fn take_out(hub: &TestHub, user: &str, query: &str) {
    let path = format!("/v1/admin/projects/p/members/{user}{query}");
    assert_eq!(admin(hub, Method::DELETE, &path, "").await.0, 204);
}

fn payroll(op_id: &str, fields: &Value) -> Value {
    json!({ "op_id": op_id, "kind": "create", "type": "payroll", "id": op_id, "fields": fields })
}

async fn connect(hub: &TestHub, user: &str, projects: Value) -> Client {
    Client::connect(&hub.ws(), &token(user, &projects)).await
}

/// Joins the project's room; the answer for it.
async fn join(client: &mut Client, since: Option<(u64, &str)>) -> Value {
    let mut room = json!({ "room": "project:p" });
    if let Some((seq, scope)) = since {
        (room["since"], room["scope"]) = (seq.into(), scope.into());
    }
    client.subscribe(json!([room])).await.remove(0)
}

#[tokio::test]
async fn an_administrator_says_who_is_in_a_project() {
    let hub = TestHub::start_with(roles).await;
    for (user, role) in [("bo", "editor"), ("ana", "viewer"), ("cy", "viewer"), ("cy", "editor")] {
        give(&hub, user, role).await;
    }
    take_out(&hub, "bo", "").await;
    let list = async |query: &str| {
        let path = format!("/v1/admin/projects/p/members{query}");
        let (status, page) = admin(&hub, Method::GET, &path, "").await;
        assert_eq!(status, 200, "{page}");
        let member = |m: &Value| {
            assert!(m["updated_at"].as_i64().unwrap() > 0);
            json!([m["user"], m["role"]])
        };
        let members = page["members"].as_array().unwrap().iter().map(member).collect();
        (Value::Array(members), page["next"].clone())
    };
    let all = json!([["ana", "viewer"], ["bo", null], ["cy", "editor"]]);
    assert_eq!(list("").await, (all, Value::Null));
    assert_eq!(list("?limit=2").await, (json!([["ana", "viewer"], ["bo", null]]), json!("bo")));
    assert_eq!(list("?limit=2&after=bo").await, (json!([["cy", "editor"]]), Value::Null));
    take_out(&hub, "ana", "?forget=true").await;
    assert_eq!(list("").await.0, json!([["bo", null], ["cy", "editor"]]));

    for (method, path, body) in [
        (Method::PUT, "members/ana", r#"{"role":"boss"}"#),
        (Method::PUT, "members/ana", r#"{"role":null}"#),
        (Method::PUT, "members/ana", r#"{"role":"viewer","until":1}"#),
        (Method::PUT, "members/a:b", r#"{"role":"viewer"}"#),
        (Method::GET, "members?after=a:b", ""),
    ] {
        let path = format!("/v1/admin/projects/p/{path}");
        let (status, problem) = admin(&hub, method, &path, body).await;
        assert_eq!(status, 400, "{path} {body}: {problem}");
    }
    let boss = r#"{"role":"boss"}"#;
    let (_, problem) = admin(&hub, Method::PUT, "/v1/admin/projects/p/members/ana", boss).await;
    let message = "there is no role `boss`; the roles are: `admin`, `editor`, `viewer`";
    assert_eq!(problem["detail"], message);
    hub.stop().await;
}

#[tokio::test]
async fn what_is_stored_decides_as_configured() {
    for (mode, claimed, granted) in [
        (Memberships::Override, "editor", [Some("viewer"), None, Some("editor")]),
        (Memberships::Token, "editor", [Some("editor"), Some("editor"), Some("editor")]),
        (Memberships::Hub, "editor", [Some("viewer"), None, None]),
    ] {
        let hub = TestHub::start_with(|config| config.auth.memberships = mode).await;
        give(&hub, "stored", "viewer").await;
        take_out(&hub, "removed", "").await;
        for (user, role) in ["stored", "removed", "unknown"].iter().zip(granted) {
            let client = connect(&hub, user, json!({ "p": claimed })).await;
            let expected = role.map_or(json!({}), |role| json!({ "p": { "role": role } }));
            assert_eq!(client.hello["projects"], expected, "{mode:?} {user}");
            let request = reqwest::Client::new().get(hub.http("/v1/projects/p/changes"));
            let request = request.bearer_auth(token(user, &json!({ "p": claimed })));
            let status = request.send().await.unwrap().status().as_u16();
            assert_eq!(status, if role.is_some() { 200 } else { 403 }, "{mode:?} {user}");
        }
        hub.stop().await;
    }
}

#[tokio::test]
async fn another_role_is_in_force_at_once_and_told() {
    let hub = TestHub::start_with(roles).await;
    let mut writer = connect(&hub, "bo", json!({ "p": "editor" })).await;
    let pay = create("1", "t1", &json!({ "title": "roof", "salary": 1 }));
    writer.write("p", json!([pay, payroll("2", &json!({}))])).await;
    let mut ana = connect(&hub, "ana", json!({ "p": "editor", "q": "editor" })).await;
    let rooms = json!([{ "room": "project:p" }, { "room": "entity:p:task:t1" },
        { "room": "entity:p:payroll:2" }, { "room": "room:p:screen", "presence": true },
        { "room": "project:q" }]);
    let joined = ana.subscribe(rooms).await;
    let editor_scope = joined[0]["scope"].as_str().unwrap().to_owned();
    ana.settle().await;

    give(&hub, "ana", "viewer").await;
    let told = [
        json!({ "type": "gone", "room": "entity:p:payroll:2", "reason": "access_lost" }),
        json!({ "type": "gone", "room": "project:p", "reason": "scope_changed",
            "types": ["*"], "except": ["task"], "fields": { "task": ["salary"] } }),
        json!({ "type": "gone", "room": "entity:p:task:t1", "reason": "scope_changed",
            "fields": { "task": ["salary"] } }),
        json!({ "type": "access", "projects": { "p": { "role": "viewer" } } }),
    ];
    ana.expect("access").await;
    let mut frames = ana.settle().await;
    frames.push(told[3].clone());
    assert_eq!(frames, told);
    writer
        .write(
            "p",
            json!([
                update("3", "t1", 1, &json!({ "salary": 2 })),
                update("4", "t1", 1, &json!({ "salary": 3, "title": "wall" })),
                payroll("5", &json!({})),
                create("6", "t2", &json!({ "salary": 4 }))
            ]),
        )
        .await;
    let frames = loop {
        // The last change brings all before it.
        let frames = ana.settle().await;
        if !frames.is_empty() {
            break frames;
        }
    };
    let brief = |f: &Value| json!([f["type"], f["seq"], f["fields"]]);
    assert_eq!(
        frames.iter().map(brief).collect::<Vec<_>>(),
        [
            json!(["change", 3, {}]),
            json!(["change", 4, { "title": "wall" }]),
            json!(["advance", 5, null]),
            json!(["change", 6, {}]),
        ]
    );
    let refused = ana.write("p", json!([update("7", "t1", 4, &json!({ "title": 1 }))])).await;
    assert_eq!(refused[0]["code"], "forbidden");

    give(&hub, "ana", "admin").await;
    let reason = json!("scope_changed");
    for room in ["project:p", "entity:p:task:t1"] {
        let resync = ana.expect("resync").await;
        assert_eq!((&resync["room"], &resync["reason"]), (&json!(room), &reason));
    }
    ana.settle().await;
    assert_eq!(join(&mut ana, None).await["scope"], editor_scope.as_str());

    take_out(&hub, "ana", "").await;
    ana.expect("access").await;
    let gone: Vec<_> = ana.settle().await.iter().map(|frame| frame["room"].clone()).collect();
    assert_eq!(gone, ["entity:p:task:t1", "room:p:screen", "project:p"]);
    let list = json!([{ "room": "room:p:screen", "presence": true }]);
    let present = writer.subscribe(list).await.remove(0);
    assert_eq!(present["presence"]["users"], 1, "who was taken out is not present: {present}");
    writer.write("p", json!([create("8", "t8", &json!({}))])).await;
    let broadcast = json!({ "type": "broadcast", "room": "room:p:screen", "event": "e" });
    assert_eq!(ana.ask(broadcast).await["code"], "forbidden");
    let mut other = connect(&hub, "cy", json!({ "q": "editor" })).await;
    other.write("q", json!([create("9", "t9", &json!({}))])).await;
    assert_eq!(ana.expect("change").await["project"], "q", "the first change since is another's");
    hub.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_commit_is_not_written_under_a_role_that_was_taken() {
    not_written_once_taken_out("").await;
}

/// The token's own role is in force again, which is none here.
#[tokio::test]
async fn what_waits_for_its_commit_is_not_written_under_a_role_that_was_forgotten() {
    not_written_once_taken_out("?forget=true").await;
}

async fn not_written_once_taken_out(how: &str) {
    let store = postgres::fresh_database().await;
    let hub = start_at(&store, "local").await;
    let project = "p".parse().unwrap();
    let claims = Claims {
        user: "ana".parse().unwrap(),
        projects: [].into(),
        device: None,
        jti: None,
        issued_at: None,
        expires_at: i64::MAX,
    };
    give(&hub, "ana", "viewer").await;
    let mut bo = connect(&hub, "bo", json!({ "p": "editor" })).await;
    let mut ana = connect(&hub, "ana", json!({})).await;
    bo.write("p", json!([create("1", "t1", &json!({}))])).await;
    ana.write("p", json!([create("failed", "t0", &json!({}))])).await;
    give(&hub, "ana", "editor").await;
    ana.expect("access").await;
    let mut other = PgConnection::connect(&store).await.unwrap();
    other.execute("BEGIN; SELECT 1 FROM sync_head WHERE project = 'p' FOR UPDATE").await.unwrap();
    let write = |op: Value| json!({ "type": "write", "id": "w", "project": "p", "ops": [op] });
    bo.send(&write(create("2", "t2", &json!({})))).await;
    let mut watching = PgConnection::connect(&store).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() == 0 {}
    // The lane is busy: this waits behind it.
    ana.send(&write(create("3", "t3", &json!({})))).await;
    ana.settle().await;
    let failed = LaneQuery { user: Some("ana"), op_ids: None, after: None, limit: 1 };
    let failed = hub.hub().store.failed(&project, &failed).await.unwrap();
    let permit = authorize(&hub.hub().access.grants(&claims), Command::Write(&project)).unwrap();
    let (retried, _) = hub.hub().engine.retry(&permit, &failed).unwrap();
    take_out(&hub, "ana", how).await;
    other.execute("COMMIT").await.unwrap();
    let refusal = retried.await.unwrap().unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Unavailable, "what is tried again waits no less");
    let answer = ana.find("the answer", |frame| frame["id"] == "w").await;
    assert_eq!(answer["code"], "unavailable", "{answer}");
    let written = bo.find("the answer", |frame| frame["id"] == "w").await;
    assert_eq!(written["verdicts"][0]["seq"], 2, "{written}");
    let verdicts = bo.write("p", json!([create("4", "t4", &json!({}))])).await;
    assert_eq!(verdicts[0]["seq"], 3, "nothing of ana's is in the log");
    ana.send(&write(create("3", "t3", &json!({})))).await;
    let again = ana.find("the answer", |frame| frame["id"] == "w").await;
    assert_eq!(again["code"], "forbidden", "{again}");
    hub.stop().await;
}

#[tokio::test]
async fn a_change_is_in_force_on_every_instance_and_after_a_restart() {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let start = || start_unpolled(&database, &redis);
    let (a, b) = (start().await, start().await);
    linked([&a, &b]).await;
    let mut ana = connect(&b, "ana", json!({ "p": "editor" })).await;
    join(&mut ana, None).await;
    let mut newcomer = connect(&b, "new", json!({})).await;
    assert_eq!(newcomer.hello["projects"], json!({}));
    give(&a, "new", "viewer").await;
    let access = newcomer.expect("access").await;
    assert_eq!(access["projects"], json!({ "p": { "role": "viewer" } }));
    join(&mut newcomer, None).await;
    give(&a, "ana", "viewer").await;
    assert_eq!(ana.expect("gone").await["reason"], "scope_changed");
    take_out(&a, "ana", "").await;
    let gone = ana.find("the room is lost", |frame| frame["reason"] == "access_lost").await;
    assert_eq!(gone["room"], "project:p");
    b.stop().await;
    let b = start().await;
    let ana = connect(&b, "ana", json!({ "p": "editor" })).await;
    assert_eq!(ana.hello["projects"], json!({}));
    let newcomer = connect(&b, "new", json!({})).await;
    assert_eq!(newcomer.hello["projects"], json!({ "p": { "role": "viewer" } }));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn what_was_stored_and_not_told_is_in_force_once_it_is_asked_for_again() {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let start = || start_unpolled(&database, &redis);
    let (a, b) = (start().await, start().await);
    linked([&a, &b]).await;
    let (project, user) = ("p".parse().unwrap(), "ana".parse().unwrap());
    let event =
        json!({ "id": "1", "project": "p", "kind": "member", "user": "ana", "role": "viewer" });
    let publish = async || {
        let (status, answer) = admin(&a, Method::POST, "/v1/publish", &event.to_string()).await;
        assert_eq!(status, 200, "{answer}");
    };
    let mut here = connect(&a, "ana", json!({})).await;
    let mut there = connect(&b, "ana", json!({})).await;
    let mut access = async || {
        let (here, there) = (here.expect("access").await, there.expect("access").await);
        assert_eq!(here["projects"], there["projects"]);
        here["projects"]["p"]["role"].clone()
    };
    publish().await;
    assert_eq!(access().await, "viewer");
    // As when an instance is killed between its commit and what follows.
    a.hub().store.set_member(&project, &user, None, 0).await.unwrap();
    publish().await;
    assert_eq!(access().await, Value::Null);
    let editor = "editor".parse().unwrap();
    a.hub().store.set_member(&project, &user, Some(&editor), 0).await.unwrap();
    give(&a, "ana", "editor").await;
    assert_eq!(access().await, "editor");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn who_loses_the_role_while_the_store_reads_is_not_told_what_it_read() {
    let store = postgres::fresh_database().await;
    let hub = start_at(&store, "local").await;
    let mut bo = connect(&hub, "bo", json!({ "p": "editor" })).await;
    bo.write("p", json!([create("1", "t1", &json!({ "salary": 1 }))])).await;
    let mut other = PgConnection::connect(&store).await.unwrap();
    let lock = "BEGIN; LOCK TABLE entities, conflict_log IN ACCESS EXCLUSIVE MODE";
    other.execute(lock).await.unwrap();
    let paths =
        ["changes", "checksum", "conflicts", "entities/task/t1", "entities/task/t1/explain"];
    let ask = |path| {
        let request = reqwest::Client::new().get(hub.http(&format!("/v1/projects/p/{path}")));
        tokio::spawn(request.bearer_auth(token("ana", &json!({ "p": "editor" }))).send())
    };
    let asked = paths.map(ask);
    let mut watching = PgConnection::connect(&store).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() < 5 {}
    give(&hub, "ana", "viewer").await;
    other.execute("COMMIT").await.unwrap();
    for (path, answer) in paths.iter().zip(asked) {
        assert_eq!(answer.await.unwrap().unwrap().status(), 503, "{path}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_change_the_bus_lost_is_found_in_the_store() {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let proxy = Proxy::start(redis.port()).await;
    let behind = format!("redis://127.0.0.1:{}", proxy.port());
    // Only `a` is cut off: nothing tells `b` that it misses something.
    let (a, b) = (start_at(&database, &behind).await, start_at(&database, &redis.url()).await);
    linked([&a, &b]).await;
    give(&a, "cy", "viewer").await;
    let mut ana = connect(&b, "ana", json!({ "p": "editor" })).await;
    let mut cy = connect(&b, "cy", json!({ "p": "editor" })).await;
    let mut bo = connect(&a, "bo", json!({ "p": "editor" })).await;
    for client in [&mut ana, &mut bo, &mut cy] {
        join(client, None).await;
    }
    proxy.refuse();
    proxy.cut_all();
    eventually("a is cut off", || async { !a.hub().relay.bus.link_up() }).await;
    take_out(&a, "ana", "").await;
    assert_eq!(ana.expect("gone").await["reason"], "access_lost");
    // And the other way: what `a` does not hear.
    give(&b, "bo", "viewer").await;
    assert_eq!(bo.expect("gone").await["reason"], "scope_changed");
    // Of a row that was deleted the store has nothing to tell but that there was one.
    take_out(&a, "cy", "?forget=true").await;
    assert_eq!(cy.expect("access").await["projects"], json!({ "p": { "role": "editor" } }));
    proxy.forward();
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_shard_that_was_not_told_asks_when_it_sweeps() {
    let hub = TestHub::start_with(roles).await;
    let mut ana = connect(&hub, "ana", json!({ "p": "editor" })).await;
    join(&mut ana, None).await;
    // As when the shards' queues are full: the change is known, and nobody was told.
    let memberships = hub.hub().access.memberships().unwrap();
    memberships.apply(&Membership {
        project: "p".parse().unwrap(),
        user: "ana".parse().unwrap(),
        standing: Standing::Removed,
        revision: 1,
    });
    hub.hub().relay.fanout.shards().iter().for_each(|shard| shard.regrant_all());
    assert_eq!(ana.expect("gone").await["reason"], "access_lost");
    hub.stop().await;
}

#[tokio::test]
async fn a_cursor_from_another_role_is_not_resumed() {
    let hub = TestHub::start_with(roles).await;
    let mut writer = connect(&hub, "bo", json!({ "p": "editor" })).await;
    writer.write("p", json!([create("1", "t1", &json!({})), payroll("2", &json!({}))])).await;
    let mut ana = connect(&hub, "ana", json!({ "p": "viewer" })).await;
    let scope = join(&mut ana, None).await["scope"].as_str().unwrap().to_owned();
    ana.close().await;

    // The same role: the cursor is good, and so it is for whoever does not say.
    let mut ana = connect(&hub, "ana", json!({ "p": "viewer" })).await;
    let joined = join(&mut ana, Some((1, &scope))).await;
    assert_eq!((&joined["recovered"], &joined["scope"]), (&json!(true), &json!(scope)));
    assert_eq!(ana.expect("advance").await["seq"], 2);
    ana.close().await;

    give(&hub, "ana", "editor").await;
    let mut ana = connect(&hub, "ana", json!({ "p": "viewer" })).await;
    let joined = join(&mut ana, Some((1, &scope))).await;
    assert_eq!((&joined["recovered"], &joined["resync"]), (&json!(false), &json!("scope_changed")));
    assert_ne!(joined["scope"], scope.as_str());
    writer.write("p", json!([create("3", "t3", &json!({}))])).await;
    assert_eq!(ana.expect("change").await["seq"], 3, "the room goes on live");
    let room = json!([{ "room": "project:p", "since": 2 }]);
    assert_eq!(ana.subscribe(room).await[0]["recovered"], true);
    ana.close().await;

    take_out(&hub, "ana", "").await;
    let mut ana = connect(&hub, "ana", json!({ "p": "viewer" })).await;
    let rooms = json!([{ "room": "project:p", "since": 1, "scope": scope },
        { "room": "entity:p:task:t1", "since": 1 }, { "room": "project:p" }]);
    let refused = ana.subscribe(rooms).await;
    assert!(refused.iter().all(|room| room["error"]["code"] == "forbidden"), "{refused:?}");
    let gone = |room| json!({ "type": "gone", "room": room, "reason": "access_lost" });
    assert_eq!(ana.settle().await, [gone("project:p"), gone("entity:p:task:t1")]);
    hub.stop().await;
}

#[tokio::test]
async fn a_delta_that_is_being_read_ends_with_the_role_it_began_with() {
    let hub = TestHub::start_with(roles).await;
    let mut writer = connect(&hub, "bo", json!({ "p": "editor" })).await;
    // More than the sockets' buffers hold, so that most of it is read after the role changed.
    let text = "x".repeat(60_000);
    for some in (0..110).collect::<Vec<_>>().chunks(10) {
        let op = |n: &u32| create(&format!("t{n}"), &format!("t{n}"), &json!({ "text": text }));
        writer.write("p", some.iter().map(op).collect()).await;
    }
    let request = reqwest::Client::new().get(hub.http("/v1/projects/p/changes?limit=100000"));
    let request = request.bearer_auth(token("ana", &json!({ "p": "editor" })));
    let mut answer = request.send().await.unwrap();
    let mut read = answer.chunk().await.unwrap().unwrap().len();
    give(&hub, "ana", "viewer").await;
    let end = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) => break "the whole",
            Err(_) => break "a part",
        }
    };
    assert_eq!(end, "a part", "{read} bytes were read");
    drop((answer, writer));
    hub.stop().await;
}

#[tokio::test]
async fn a_backends_event_says_who_is_in_a_project() {
    let redis = redis::Server::start().await;
    let hub = TestHub::start_with(|config| {
        roles(config);
        config.bus.url = redis.url();
    })
    .await;
    let event = |id: &str, role: Value| json!({ "id": id, "project": "p", "kind": "member", "user": "ana", "role": role });
    let mut ana = connect(&hub, "ana", json!({})).await;
    let role = async |ana: &mut Client| ana.expect("access").await["projects"]["p"]["role"].clone();

    // The stream, the channel and HTTP; the first comes again when it is long outdated.
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut send = client.get_multiplexed_async_connection().await.unwrap();
    let first = event("1", json!("viewer")).to_string();
    let add = async |send: &mut ::redis::aio::MultiplexedConnection, text: &str| {
        let mut command = ::redis::cmd("XADD");
        command.arg(&["syncline:ingest", "*", "event", text]);
        let _entry: String = command.query_async(send).await.unwrap();
    };
    add(&mut send, &first).await;
    assert_eq!(role(&mut ana).await, "viewer");
    let second = event("2", json!("editor")).to_string();
    loop {
        let mut command = ::redis::cmd("PUBLISH");
        command.arg(&["syncline:publish", &second]);
        let heard: u64 = command.query_async(&mut send).await.unwrap();
        if heard > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(role(&mut ana).await, "editor");
    add(&mut send, &first).await;
    let duplicates = "syncline_ingest_events_total{way=\"stream\",outcome=\"duplicate\"}";
    eventually("the first comes again", || async { hub.metric(duplicates) == 1.0 }).await;

    // What stands beside a removal is not seen any more, wherever it stands.
    join(&mut ana, None).await;
    let secret = json!({ "id": "4", "project": "p", "kind": "upsert",
        "entity": { "type": "task", "id": "t1" }, "fields": { "title": "after you left" } });
    let body = json!([
        secret,
        event("3", Value::Null),
        event("3", json!("admin")),
        event("5", json!("boss"))
    ]);
    let publish = async || admin(&hub, Method::POST, "/v1/publish", &body.to_string()).await;
    let (status, answer) = publish().await;
    assert_eq!(status, 200, "{answer}");
    let brief = |result: &Value| json!([result["outcome"], result["code"], result["duplicate"]]);
    let results = |answer: &Value| {
        answer["results"].as_array().unwrap().iter().map(brief).collect::<Vec<_>>()
    };
    assert_eq!(
        results(&answer),
        [
            json!(["applied", null, null]),
            json!(["applied", null, null]),
            json!(["rejected", "op_id_reused", null]),
            json!(["rejected", "bad_request", null]),
        ]
    );
    assert_eq!(role(&mut ana).await, Value::Null);
    let frames = ana.settle().await;
    assert_eq!(frames.len(), 1, "{frames:?}");
    assert_eq!(frames[0]["reason"], "access_lost");
    let (_, answer) = publish().await;
    assert_eq!(results(&answer)[1], json!(["applied", null, true]));
    assert_eq!(ana.settle().await, [] as [Value; 0]);
    hub.stop().await;
}
