//! What users are told beside the log, across instances whose link breaks: conflicts that wait for them, and the
//! verdicts of what was tried again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Client, create};
use crate::support::hub::{TestHub, token};
use crate::support::proxy::Proxy;
use crate::support::schema::{op, varied};
use crate::support::{eventually, postgres, redis};

async fn start(database: &str, bus: String) -> TestHub {
    TestHub::start_with(|config| {
        varied(config);
        config.store.url = database.into();
        config.bus.url = bus;
        // No help comes from a poll.
        config.bus.head_poll = Duration::from_secs(3600);
    })
    .await
}

async fn connect(hub: &TestHub, user: &str, role: &str, client: &str) -> Client {
    let mut connected = Client::connect(&hub.ws(), &token(user, &json!({ "p": role }))).await;
    connected.ask(json!({ "type": "connect", "client": client })).await;
    connected
}

/// The link of the instance where it happens breaks, or that of the one where the user's other device is.
async fn told_once_the_link_is_well(cut_off: usize) {
    let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
    let proxy = Proxy::start(redis.port()).await;
    let bus = |hub: usize| if hub == cut_off { proxy.port() } else { redis.port() };
    let bus = |hub| format!("redis://127.0.0.1:{}", bus(hub));
    let hubs = [start(&database, bus(0)).await, start(&database, bus(1)).await];
    let up = |hub: &TestHub| hub.hub().relay.bus.link_up();
    eventually("the bus is up", async || hubs.iter().all(up)).await;
    let mut viewer = connect(&hubs[0], "ana", "viewer", "phone").await;
    let rejected = viewer.write("p", json!([create("0", "t1", &json!({}))])).await;
    assert_eq!(rejected[0]["code"], "forbidden");
    let mut phone = connect(&hubs[0], "ana", "editor", "phone").await;
    let mut desk = connect(&hubs[0], "bo", "editor", "desk").await;
    let mut tablet = connect(&hubs[1], "ana", "editor", "tablet").await;
    proxy.refuse();
    proxy.cut_all();
    eventually("it is cut off", async || !up(&hubs[cut_off])).await;

    let form = ("form", "f1");
    let title = |base: u64, title: &str| json!({ "base": base, "fields": { "title": title } });
    phone.write("p", json!([op("1", "create", form, &title(0, "one"))])).await;
    desk.write("p", json!([op("2", "update", form, &title(1, "bo's"))])).await;
    let parked = phone.write("p", json!([op("3", "update", form, &title(1, "ana's"))])).await;
    let retry = reqwest::Client::new().post(hubs[0].http("/v1/sync/failed/retry"));
    let retry = retry.bearer_auth(token("ana", &json!({ "p": "editor" })));
    let retried = retry.body(json!({ "project": "p" }).to_string()).send().await.unwrap();
    let retried: Value = retried.json().await.unwrap();
    assert_eq!(retried["verdicts"][0]["outcome"], "applied", "{retried}");

    let early = tablet.settle().await;
    let untold = |frame: &Value| frame["type"] != "conflict" && frame["type"] != "verdict";
    assert!(early.iter().all(untold), "the link is not broken: {early:?}");
    proxy.forward();
    let conflict = tablet.find("the conflict", |frame| frame["type"] == "conflict").await;
    assert_eq!(conflict["conflict"]["id"], parked[0]["conflict"]);
    let verdict = tablet.find("the verdict", |frame| frame["type"] == "verdict").await;
    assert_eq!(verdict["verdict"]["op_id"], "0");
    for hub in hubs {
        hub.stop().await;
    }
}

#[tokio::test]
async fn what_a_broken_link_kept_back_is_told_once_it_is_well() {
    told_once_the_link_is_well(0).await;
}

#[tokio::test]
async fn what_did_not_get_through_a_broken_link_is_told_once_it_is_well() {
    told_once_the_link_is_well(1).await;
}
