//! Sessions over time: new tokens, narrower and wider grants, expiry, revocation on every instance.

use serde_json::{Value, json};
use syncline::auth::{Revocation, RevocationEntry};
use syncline::clock;
use syncline::config::Config;
use tokio::time::Duration;

use crate::support::client::{Client, End, create, seqs, update};
use crate::support::hub::{ADMIN_TOKEN, TestHub, token, token_with};
use crate::support::proxy::Proxy;
use crate::support::raw::{Heard, Raw, text};
use crate::support::{eventually, postgres, redis};

async fn start_at(store: &str, bus: &str) -> TestHub {
    TestHub::start_with(|config| {
        config.store.url = store.into();
        config.bus.url = bus.into();
    })
    .await
}

/// Two instances that hear of each other by the bus alone: the store is not asked for what was missed.
async fn pair_without_polls() -> (String, redis::Server, TestHub, TestHub) {
    const NEVER: Duration = Duration::from_secs(3600);
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let start = |config: &mut Config| {
        (config.store.url, config.bus.url) = (database.clone(), redis.url());
        (config.bus.head_poll, config.bus.head_poll_suspect) = (NEVER, NEVER);
    };
    let (a, b) = (TestHub::start_with(start).await, TestHub::start_with(start).await);
    eventually("the bus is up", || async {
        a.hub().relay.bus.link_up() && b.hub().relay.bus.link_up()
    })
    .await;
    (database, redis, a, b)
}

async fn admin(hub: &TestHub, path: &str, body: &Value) {
    let request = reqwest::Client::new().post(hub.http(path)).bearer_auth(ADMIN_TOKEN);
    let answer = request.body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 204, "{path}: {:?}", answer.text().await);
}

async fn revoke(hub: &TestHub, revocation: &Value) {
    admin(hub, "/v1/admin/tokens/revoke", revocation).await;
}

fn editor(user: &str) -> String {
    token(user, &json!({ "p": "editor" }))
}

async fn refresh(client: &mut Client, token: &str) -> Value {
    client.ask(json!({ "type": "refresh", "token": token })).await
}

#[tokio::test]
async fn a_token_is_replaced_in_place() {
    let hub = TestHub::start().await;
    let mut client = Client::connect(&hub.ws(), &editor("ana")).await;
    client.subscribe(json!([{ "room": "project:p" }])).await;
    let longer = token_with(
        &json!({ "sub": "ana", "projects": { "p": "editor" }, "exp": clock::now_s() + 7200 }),
    );
    let answer = refresh(&mut client, &longer).await;
    assert_eq!(answer["type"], "refreshed");
    assert!(answer["ttl"].as_u64().unwrap() > 3600);
    client.write("p", json!([create("1", "t1", &json!({}))])).await;
    client.expect("change").await;

    // What is no use changes nothing.
    assert_eq!(refresh(&mut client, &editor("bo")).await["code"], "forbidden");
    assert_eq!(refresh(&mut client, "a.b.c").await["code"], "unauthorized");
    let expired = token_with(&json!({ "sub": "ana", "exp": 1000 }));
    assert_eq!(refresh(&mut client, &expired).await["code"], "token_expired");
    client.write("p", json!([create("2", "t2", &json!({}))])).await;
    client.expect("change").await;
    hub.stop().await;
}

#[tokio::test]
async fn a_narrower_token_ends_all_of_a_project_at_once() {
    let hub = TestHub::start().await;
    let both = json!({ "p": "editor", "q": "editor" });
    let mut client = Client::connect(&hub.ws(), &token("ana", &both)).await;
    let mut other = Client::connect(&hub.ws(), &token("bo", &both)).await;
    let rooms = ["entity:p:task:t1", "project:p", "room:p:x", "project:q", "user:ana"];
    let rooms: Vec<_> = rooms.iter().map(|room| json!({ "room": room })).collect();
    client.subscribe(rooms.into()).await;
    client
        .ask(json!({ "type": "refresh", "token": token("ana", &json!({ "q": "editor" })) }))
        .await;
    let told = client.settle().await;
    let mut gone: Vec<_> = told
        .iter()
        .filter(|f| f["type"] == "gone")
        .map(|f| (f["room"].as_str().unwrap(), f["reason"].as_str().unwrap()))
        .collect();
    gone.sort_unstable();
    let lost = |room| (room, "access_lost");
    assert_eq!(gone, [lost("entity:p:task:t1"), lost("project:p"), lost("room:p:x")]);

    let mut op = create("1", "t1", &json!({}));
    op["notify"] = json!({ "users": ["ana"], "title": "of p" });
    other.write("p", json!([op])).await;
    other.ask(json!({ "type": "broadcast", "room": "room:p:x", "event": "e" })).await;
    let mut op = create("1", "t1", &json!({}));
    op["notify"] = json!({ "users": ["ana"], "title": "of q" });
    other.write("q", json!([op])).await;
    assert_eq!(client.expect("notification").await["title"], "of q");
    let heard = client.settle().await;
    assert!(heard.iter().all(|frame| frame["project"] == "q"), "{heard:?}");
    assert_eq!(seqs(&heard), [1]);
    for (answer, what) in [
        (
            client.subscribe(json!([{ "room": "project:p", "since": 0 }])).await[0]["error"]
                .clone(),
            "subscribe",
        ),
        (client.ask(json!({ "type": "write", "project": "p", "ops": [] })).await, "write"),
    ] {
        assert_eq!(answer["code"], "forbidden", "{what}");
    }

    // And wider again.
    assert_eq!(refresh(&mut client, &token("ana", &both)).await["type"], "refreshed");
    client.subscribe(json!([{ "room": "project:p", "since": 0 }])).await;
    assert_eq!(client.expect("change").await["project"], "p");
    hub.stop().await;
}

#[tokio::test]
async fn losing_a_project_while_it_is_read_ends_the_reading() {
    let hub = TestHub::start_with(|config| {
        config.limits.recent_bytes = 1000;
        config.limits.catch_up_bytes = 1000;
        config.limits.page_changes = 5;
    })
    .await;
    let mut client = Client::connect(&hub.ws(), &editor("ana")).await;
    let ops: Vec<_> = (0..300).map(|n| create(&format!("{n}"), "t1", &json!({ "n": n }))).collect();
    let mut ops = ops;
    for (n, op) in ops.iter_mut().enumerate().skip(1) {
        *op = json!({ "op_id": format!("{n}"), "kind": "update", "type": "task", "id": "t1", "base": n, "fields": { "n": n } });
    }
    for chunk in ops.chunks(100) {
        client.write("p", chunk.into()).await;
    }
    for round in 0..20 {
        let mut reader = Client::connect(&hub.ws(), &editor("bo")).await;
        reader
            .send(&json!({ "type": "subscribe", "rooms": [
            { "room": "project:p", "since": 0 }, { "room": "entity:p:task:t1", "since": 0 }] }))
            .await;
        for _ in 0..round {
            reader.expect("change").await;
        }
        reader.send(&json!({ "type": "refresh", "token": token("bo", &json!({})) })).await;
        reader.find("the first of the end", |f| f["type"] == "gone").await;
        // What was sent before is fine; the order of arrival tells what came after.
        reader.find("the end", |f| f["type"] == "refreshed").await;
        reader.settle().await;
        let after = reader.settle().await;
        assert_eq!(after, [] as [Value; 0], "round {round}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_role_that_reads_other_types_says_what_to_purge_and_what_to_fetch() {
    let hub = TestHub::start_with(|config| {
        config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
    })
    .await;
    let mut client = Client::connect(&hub.ws(), &editor("ana")).await;
    client
        .subscribe(json!([{ "room": "project:p" }, { "room": "entity:p:task:t1" },
        { "room": "entity:p:payroll:1" }]))
        .await;
    refresh(&mut client, &token("ana", &json!({ "p": "viewer" }))).await;
    assert_eq!(
        client.expect("gone").await,
        json!({ "type": "gone", "room": "entity:p:payroll:1", "reason": "access_lost" })
    );
    assert_eq!(
        client.expect("gone").await,
        json!({ "type": "gone", "room": "project:p", "reason": "scope_changed",
            "types": ["*"], "except": ["task"] })
    );
    assert_eq!(client.settle().await, [] as [Value; 0], "what is lost is not to be fetched");
    let payroll =
        json!({ "op_id": "p", "kind": "create", "type": "payroll", "id": "1", "fields": {} });
    let mut writer = Client::connect(&hub.ws(), &editor("bo")).await;
    writer.write("p", json!([payroll, create("1", "t1", &json!({}))])).await;
    assert_eq!(client.expect("advance").await["seq"], 1);
    assert_eq!(client.expect("change").await["seq"], 2);
    refresh(&mut client, &editor("ana")).await;
    assert_eq!(
        client.expect("resync").await,
        json!({ "type": "resync", "room": "project:p", "reason": "scope_changed" })
    );
    // The same read list under another name is nothing to begin anew for.
    refresh(&mut writer, &token("bo", &json!({ "p": "admin" }))).await;
    assert_eq!(writer.settle().await, [] as [Value; 0]);
    hub.stop().await;
}

#[tokio::test]
async fn a_token_is_warned_about_outlived_a_little_and_refused_on_waking() {
    let hub = TestHub::start_with(|config| {
        config.auth.expiry_grace = Duration::from_secs(1);
        config.auth.leeway = Duration::ZERO;
    })
    .await;
    let short = token_with(
        &json!({ "sub": "ana", "projects": { "p": "editor" }, "exp": clock::now_s() + 2 }),
    );
    let mut client = Client::connect(&hub.ws(), &short).await;
    let mut kept = Client::connect(&hub.ws(), &short).await;
    assert!(client.expect("token_expiring").await["ttl"].as_u64().unwrap() <= 2);
    kept.expect("token_expiring").await;
    assert_eq!(refresh(&mut kept, &editor("ana")).await["type"], "refreshed");
    assert_eq!(client.end().await.1, End::Closed(4100));
    assert!(clock::now_s() > claims_exp(&short), "the grace was cut short");
    kept.settle().await;

    // The app wakes with the old token, is told to get another, and comes back.
    let mut woken = Client::open(&hub.ws(), Some(&short)).await.unwrap();
    assert_eq!(woken.end().await, (vec![], End::Closed(4100)));
    Client::connect(&hub.ws(), &editor("ana")).await.settle().await;
    hub.stop().await;
}

fn claims_exp(token: &str) -> i64 {
    use base64::Engine;
    let payload = token.split('.').nth(1).unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()["exp"].as_i64().unwrap()
}

/// Tokens, each with the revocation that takes it back.
fn victims() -> Vec<(Value, Value)> {
    let now = clock::now_s();
    let claims = |user: &str, jti: &str, device: &str, age: i64| {
        json!({ "sub": user, "projects": { "p": "editor" }, "jti": jti, "device": device,
            "iat": now - age, "exp": now + 3600 })
    };
    vec![
        (
            claims("u", "1", "phone", 10),
            json!({ "kind": "user", "user": "u", "issued_before": now - 5 }),
        ),
        (
            claims("d", "2", "lost", 10),
            json!({ "kind": "device", "user": "d", "device": "lost", "issued_before": now - 5 }),
        ),
        (claims("t", "3", "phone", 10), json!({ "kind": "token", "jti": "3" })),
        (
            claims("old", "4", "phone", 5000),
            json!({ "kind": "issued_before", "issued_before": now - 4000 }),
        ),
    ]
}

#[tokio::test]
async fn a_revocation_ends_sessions_on_every_instance_and_survives_restarts() {
    let (database, redis, a, b) = pair_without_polls().await;
    // Each has a neighbour the revocation does not concern.
    let now = clock::now_s();
    let neighbours = [
        json!({ "sub": "u", "jti": "5", "iat": now, "exp": now + 3600 }),
        json!({ "sub": "d", "device": "other", "jti": "6", "iat": now - 10, "exp": now + 3600 }),
    ];
    let mut spared = Vec::new();
    for claims in &neighbours {
        spared.push(Client::connect(&b.ws(), &token_with(claims)).await);
    }
    for (claims, revocation) in victims() {
        let token = token_with(&claims);
        let mut here = Client::connect(&a.ws(), &token).await;
        let mut there = Client::connect(&b.ws(), &token).await;
        revoke(&a, &revocation).await;
        assert_eq!(here.end().await.1, End::Closed(4101), "{revocation}");
        assert_eq!(there.end().await.1, End::Closed(4101), "{revocation}");
        for hub in [&a, &b] {
            let mut again = Client::open(&hub.ws(), Some(&token)).await.unwrap();
            assert_eq!(again.end().await, (vec![], End::Closed(4101)), "{revocation}");
        }
    }
    for client in &mut spared {
        client.settle().await;
    }
    b.stop().await;
    let b = start_at(&database, &redis.url()).await;
    for (claims, revocation) in victims() {
        let mut again = Client::open(&b.ws(), Some(&token_with(&claims))).await.unwrap();
        assert_eq!(again.end().await.1, End::Closed(4101), "{revocation}");
    }
    Client::connect(&b.ws(), &token_with(&neighbours[0])).await.settle().await;
    a.stop().await;
    b.stop().await;
}

/// Two instances with their bus up, the first behind a proxy to Redis.
async fn one_behind_a_proxy() -> (redis::Server, Proxy, TestHub, TestHub) {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let proxy = Proxy::start(redis.port()).await;
    let behind = format!("redis://127.0.0.1:{}", proxy.port());
    let (a, b) = (start_at(&database, &behind).await, start_at(&database, &redis.url()).await);
    eventually("the bus is up", || async {
        a.hub().relay.bus.link_up() && b.hub().relay.bus.link_up()
    })
    .await;
    (redis, proxy, a, b)
}

#[tokio::test]
async fn a_revocation_the_bus_lost_is_found_in_the_store() {
    // Only `a` is cut off: nothing tells `b` that it misses something.
    let (_redis, proxy, a, b) = one_behind_a_proxy().await;
    let mut at_a = Client::connect(&a.ws(), &editor("ana")).await;
    let mut at_b = Client::connect(&b.ws(), &editor("ana")).await;
    let mut bo = Client::connect(&a.ws(), &editor("bo")).await;
    proxy.refuse();
    proxy.cut_all();
    eventually("a is cut off", || async { !a.hub().relay.bus.link_up() }).await;
    let before =
        |user: &str| json!({ "kind": "user", "user": user, "issued_before": clock::now_s() + 1 });
    revoke(&a, &before("ana")).await;
    assert_eq!(at_a.end().await.1, End::Closed(4101));
    assert_eq!(at_b.end().await.1, End::Closed(4101));
    // And the other way: what `a` does not hear.
    revoke(&b, &before("bo")).await;
    assert_eq!(bo.end().await.1, End::Closed(4101));
    proxy.forward();
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn an_instance_that_is_cut_off_ends_sessions_too() {
    let (_redis, proxy, a, b) = one_behind_a_proxy().await;
    let mut ana = Client::connect(&a.ws(), &editor("ana")).await;
    let mut bo = Client::connect(&a.ws(), &editor("bo")).await;
    proxy.refuse();
    proxy.cut_all();
    eventually("a is cut off", || async { !a.hub().relay.bus.link_up() }).await;
    admin(&b, "/v1/admin/users/ana/disconnect", &json!({})).await;
    assert_eq!(ana.end().await.1, End::Closed(4403));
    // She comes back, and what is found in the store again does not end that session.
    let mut again = Client::connect(&a.ws(), &editor("ana")).await;
    revoke(&b, &json!({ "kind": "user", "user": "bo", "issued_before": clock::now_s() + 1 })).await;
    assert_eq!(bo.end().await.1, End::Closed(4101), "the store was read once more");
    again.settle().await;
    proxy.forward();
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn the_stores_clock_decides_which_sessions_end_whatever_the_instances_say() {
    const HOURS: i64 = 2 * 3600 * 1000;
    for wrong_by in [HOURS, -HOURS] {
        // No bus between them: all they hear of each other stands in the store.
        let database = postgres::fresh_database().await;
        postgres::skew(&database, wrong_by).await;
        let before = start_at(&database, "local").await;
        let mut ana = Client::connect(&before.ws(), &editor("ana")).await;
        let teller = start_at(&database, "local").await;
        admin(&teller, "/v1/admin/users/ana/disconnect", &json!({})).await;
        assert_eq!(ana.end().await.1, End::Closed(4403), "wrong by {wrong_by}");

        // An instance that hears of it only once she has come back, and reads the store twice.
        let after = start_at(&database, "local").await;
        let mut again = Client::connect(&after.ws(), &editor("ana")).await;
        for user in ["bo", "cy"] {
            let mut other = Client::connect(&after.ws(), &editor(user)).await;
            let issued_before = clock::now_s() + 1;
            revoke(
                &teller,
                &json!({ "kind": "user", "user": user, "issued_before": issued_before }),
            )
            .await;
            assert_eq!(other.end().await.1, End::Closed(4101), "wrong by {wrong_by}");
        }
        again.settle().await;
        for hub in [before, teller, after] {
            hub.stop().await;
        }
    }
}

#[tokio::test]
async fn what_the_bus_could_not_take_is_counted() {
    let (database, mut redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let hub = start_at(&database, &redis.url()).await;
    eventually("the bus is up", async || hub.hub().relay.bus.link_up()).await;
    let mut ana = Client::connect(&hub.ws(), &editor("ana")).await;
    let dropped = || hub.metric("syncline_drops_total{reason=\"bus_queue\"}");
    assert_eq!(dropped(), 0.0);
    redis.kill().await;
    eventually("the bus is down", async || !hub.hub().relay.bus.link_up()).await;
    ana.write("p", json!([create("1", "t1", &json!({}))])).await;
    eventually("it is counted", async || dropped() >= 1.0).await;
    hub.stop().await;
}

#[tokio::test]
async fn an_administrator_ends_the_sessions_of_a_user_on_every_instance() {
    let (_database, _redis, a, b) = pair_without_polls().await;
    let mut clients = Vec::new();
    for hub in [&a, &b, &b] {
        clients.push(Client::connect(&hub.ws(), &editor("ana")).await);
    }
    let mut bo = Client::connect(&b.ws(), &editor("bo")).await;
    admin(&a, "/v1/admin/users/ana/disconnect", &json!({})).await;
    for client in &mut clients {
        assert_eq!(client.end().await.1, End::Closed(4403));
    }
    bo.settle().await;
    // It ends sessions, not accounts.
    Client::connect(&b.ws(), &editor("ana")).await.settle().await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_shard_that_was_told_nothing_of_a_revocation_finds_out() {
    let hub = TestHub::start().await;
    let mut ana = Client::connect(&hub.ws(), &editor("ana")).await;
    let mut bo = Client::connect(&hub.ws(), &editor("bo")).await;
    let revocation =
        Revocation::User { user: "ana".parse().unwrap(), issued_before: clock::now_s() + 1 };
    let expires_at = clock::now_s() + 60;
    // As if every shard's queue had been full.
    assert!(hub.hub().auth.revocations().add(RevocationEntry { revocation, expires_at }));
    assert_eq!(ana.end().await.1, End::Closed(4101));
    bo.settle().await;
    hub.stop().await;
}

#[tokio::test]
async fn losing_a_project_lets_no_room_of_it_read_on() {
    let hub = TestHub::start_with(|config| config.limits.catch_up_bytes = 10_000).await;
    let mut writer = Client::connect(&hub.ws(), &editor("ana")).await;
    let filler = "x".repeat(4000);
    let mut ops = vec![create("0", "t1", &json!({ "x": filler }))];
    ops.extend(
        (1..200)
            .map(|n| update(&format!("{n}"), "t1", n, &json!({ "x": format!("{n} {filler}") }))),
    );
    writer.write("p", ops.into()).await;
    // The reader stops reading: its catch-up of the project's room stands still in the middle.
    let mut reader = Raw::open_narrow(&hub.ws()).await;
    reader.upgrade(&editor("bo")).await;
    let rooms =
        json!([{ "room": "project:p", "since": 0 }, { "room": "entity:p:task:t1", "since": 0 }]);
    reader.send(text(&json!({ "type": "subscribe", "rooms": rooms }))).await;
    eventually("it stands still", || async { hub.metric("syncline_outbox_bytes") > 0.0 }).await;
    let less = json!({ "type": "refresh", "token": token("bo", &json!({})) });
    reader.send(text(&less)).await;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&json!("refreshed")) {
        match reader.hear().await {
            Some(Heard::Text(frame)) => kinds.push(frame["type"].clone()),
            Some(_) => {}
            None => panic!("the connection ended"),
        }
    }
    let first = kinds.iter().position(|kind| kind == "gone").unwrap();
    assert_eq!(kinds[first..], ["gone", "gone", "refreshed"]);
    assert!(first < 200, "the catch-up was over before the access was lost");
    hub.stop().await;
}
