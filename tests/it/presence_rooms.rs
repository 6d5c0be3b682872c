//! Presence as clients see it: frames, lists and the HTTP listing, on one hub and on two.

use serde_json::{Value, json};
use tokio::time::Duration;

use crate::support::client::Client;
use crate::support::hub::{TestHub, token};
use crate::support::proxy::{Proxy, Way};
use crate::support::{eventually, postgres, redis};

const ROOM: &str = "room:p:screen";

async fn connect(hub: &TestHub, user: &str) -> Client {
    Client::connect(&hub.ws(), &token(user, &json!({ "p": "editor" }))).await
}

async fn join(client: &mut Client) -> Value {
    client.subscribe(json!([{ "room": ROOM, "presence": true }])).await.remove(0)
}

async fn set(client: &mut Client, state: &Value) -> Value {
    client.ask(json!({ "type": "presence", "room": ROOM, "state": state })).await
}

/// The next delta that names `user`, as `joined`, `left` or `updated`. A room that is told anew who is here
/// tells of who joined as well.
async fn delta(client: &mut Client, what: &str, user: &str) -> Value {
    let names = |frame: &Value| {
        let named = |users: &Value| {
            users.as_array().is_some_and(|users| {
                users.iter().any(|entry| *entry == json!(user) || entry["user"] == user)
            })
        };
        frame["type"] == "presence"
            && (named(&frame[what]) || (what == "joined" && named(&frame["members"])))
    };
    client.find(&format!("{user} {what}"), names).await
}

async fn listed(hub: &TestHub, query: &str) -> Value {
    let path = hub.http(&format!("/v1/rooms/{ROOM}/presence{query}"));
    let request =
        reqwest::Client::new().get(path).bearer_auth(token("vi", &json!({ "p": "viewer" })));
    request.send().await.unwrap().json().await.unwrap()
}

/// What two users see of each other, wherever they are connected.
async fn story(first: &TestHub, second: &TestHub) {
    let (mut ana, mut bo) = (connect(first, "ana").await, connect(second, "bo").await);
    let mut lurker = connect(second, "lurker").await;
    let alone = lurker.subscribe(json!([{ "room": ROOM }])).await.remove(0);
    assert_eq!(alone["presence"], Value::Null);

    join(&mut ana).await;
    delta(&mut ana, "joined", "ana").await;
    let list = join(&mut bo).await["presence"].clone();
    assert!(
        list["members"].as_array().unwrap().contains(&json!({ "user": "ana", "state": null })),
        "{list}"
    );
    assert_eq!(delta(&mut ana, "joined", "bo").await["users"], 2);
    delta(&mut bo, "joined", "bo").await;

    assert_eq!(set(&mut ana, &json!({ "x": 1 })).await["type"], "ok");
    let updated = delta(&mut bo, "updated", "ana").await;
    assert_eq!(updated["updated"], json!([{ "user": "ana", "state": { "x": 1 } }]));
    assert_eq!((&updated["joined"], &updated["left"]), (&Value::Null, &Value::Null));

    let page = listed(second, "").await;
    assert_eq!(
        page,
        json!({ "users": 2, "members": [
        { "user": "ana", "state": { "x": 1 } }, { "user": "bo", "state": null }] })
    );
    let page = listed(first, "?limit=1").await;
    assert_eq!((&page["members"][0]["user"], &page["next"]), (&json!("ana"), &json!("ana")));
    let page = listed(first, "?after=ana").await;
    assert_eq!((&page["members"][0]["user"], &page["next"]), (&json!("bo"), &Value::Null));

    bo.settle().await;
    // A network switch: the socket breaks, another comes up before the grace is over.
    drop(ana);
    let mut ana = connect(second, "ana").await;
    join(&mut ana).await;
    set(&mut ana, &json!({ "x": 2 })).await;
    let updated = delta(&mut bo, "updated", "ana").await;
    assert_eq!(updated["users"], 2);
    let flicker: Vec<_> =
        bo.settle().await.into_iter().filter(|f| f["type"] == "presence").collect();
    assert!(flicker.iter().all(|f| f["left"].is_null() && f["joined"].is_null()), "{flicker:?}");

    // Leaving on purpose shows at once, long before the grace.
    ana.ask(json!({ "type": "unsubscribe", "rooms": [ROOM] })).await;
    assert_eq!(delta(&mut bo, "left", "ana").await["users"], 1);
    assert_eq!(set(&mut ana, &json!(1)).await["code"], "not_subscribed");
    bo.close().await;
    eventually("the room is empty", || async { listed(first, "").await["users"] == 0 }).await;
    let heard = lurker.settle().await;
    assert!(heard.iter().all(|frame| frame["type"] != "presence"), "{heard:?}");
}

#[tokio::test]
async fn users_see_each_other_on_one_hub() {
    let hub = TestHub::start_with(|config| config.presence.grace = Duration::from_secs(600)).await;
    story(&hub, &hub).await;
    hub.stop().await;
}

#[tokio::test]
async fn users_see_each_other_on_two_hubs() {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let start = || {
        TestHub::start_with(|config| {
            config.store.url = database.clone();
            config.bus.url = redis.url();
            config.presence.grace = Duration::from_secs(600);
        })
    };
    let (a, b) = (start().await, start().await);
    eventually("the bus is up", || async {
        a.hub().relay.bus.link_up() && b.hub().relay.bus.link_up()
    })
    .await;
    story(&a, &b).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn who_was_cut_off_for_a_moment_is_told_anew_who_is_here() {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let link = Proxy::start(redis.port()).await;
    let start = |port: u16| {
        let database = database.clone();
        TestHub::start_with(move |config| {
            config.store.url = database;
            config.bus.url = format!("redis://127.0.0.1:{port}");
            config.bus.probe_interval = Duration::from_millis(200);
            config.presence.heartbeat = Duration::from_millis(200);
            config.presence.lease = Duration::from_secs(2);
        })
    };
    let (a, b) = (start(redis.port()).await, start(link.port()).await);
    eventually("the bus is up", || async {
        a.hub().relay.bus.link_up() && b.hub().relay.bus.link_up()
    })
    .await;
    let (mut ana, mut bo) = (connect(&a, "ana").await, connect(&b, "bo").await);
    join(&mut ana).await;
    join(&mut bo).await;
    delta(&mut ana, "joined", "bo").await;
    // The news of it is lost on the way to `b`, and nothing comes after it.
    link.swallow(Way::ToClient);
    set(&mut ana, &json!("lost")).await;
    delta(&mut ana, "updated", "ana").await;
    link.heal();
    let shows = |frame: &Value| {
        let members = frame["members"].as_array().cloned().unwrap_or_default();
        members.contains(&json!({ "user": "ana", "state": "lost" }))
    };
    bo.find("who is here", shows).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_lost_connection_leaves_after_the_grace() {
    let hub =
        TestHub::start_with(|config| config.presence.grace = Duration::from_millis(300)).await;
    let (ana, mut bo) = (connect(&hub, "ana").await, connect(&hub, "bo").await);
    let mut ana = ana;
    join(&mut bo).await;
    join(&mut ana).await;
    delta(&mut bo, "joined", "ana").await;
    drop(ana);
    assert_eq!(delta(&mut bo, "left", "ana").await["users"], 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_user_with_two_connections_is_one_member() {
    let hub = TestHub::start().await;
    let mut bo = connect(&hub, "bo").await;
    join(&mut bo).await;
    let (mut phone, mut laptop) = (connect(&hub, "ana").await, connect(&hub, "ana").await);
    join(&mut phone).await;
    assert_eq!(delta(&mut bo, "joined", "ana").await["users"], 2);
    join(&mut laptop).await;
    set(&mut laptop, &json!("laptop")).await;
    delta(&mut bo, "updated", "ana").await;
    phone.ask(json!({ "type": "unsubscribe", "rooms": [ROOM] })).await;
    set(&mut laptop, &json!("still here")).await;
    let updated = delta(&mut bo, "updated", "ana").await;
    assert_eq!(updated["users"], 2);
    let heard = bo.settle().await;
    assert!(heard.iter().all(|frame| frame["left"].is_null()), "{heard:?}");
    hub.stop().await;
}

#[tokio::test]
async fn a_state_that_is_too_large_or_too_frequent_is_refused() {
    let hub = TestHub::start_with(|config| config.limits.presence_per_second = 1).await;
    let mut ana = connect(&hub, "ana").await;
    assert_eq!(set(&mut ana, &json!(1)).await["code"], "not_subscribed");
    join(&mut ana).await;
    let refused = set(&mut ana, &json!("x".repeat(1024))).await;
    assert_eq!(refused["code"], "limit_exceeded");
    assert_eq!(refused["detail"], json!({ "limit": "presence_bytes", "value": 1024 }));
    let refused = loop {
        let answer = set(&mut ana, &json!(2)).await;
        if answer["type"] == "error" {
            break answer;
        }
    };
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["retry_after_ms"].as_u64().unwrap() > 0);
    hub.stop().await;
}
