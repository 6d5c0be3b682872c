//! A push is armed with its event and disarmed by an acknowledgement.

use std::time::Duration;

use serde_json::json;

use super::{
    admin, change, eager, get, hub_and_stand_in, notify, number, post, publish, register, sent,
    settled, stand_in, titles,
};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::postgres;

const WAITING: &str = "SELECT count(*) FROM push_intents WHERE state = 'waiting'";
const CANCELED: &str = "SELECT count(*) FROM push_intents WHERE state = 'canceled'";
/// As if every grace had passed.
const PASS: &str = "UPDATE push_intents SET not_before = 0 WHERE state = 'waiting'";

/// Graces that do not pass by themselves.
fn patient(config: &mut syncline::config::Config) {
    config.push.grace_critical = Duration::from_secs(600);
    config.push.grace_high = Duration::from_secs(600);
    config.push.grace_normal = Duration::from_secs(600);
}

/// A connected user whom every instance knows to be here.
async fn connected(hub: &TestHub, user: &str, client: &str, active: bool) -> Client {
    let mut connection = Client::connect(&hub.ws(), &token(user, &json!({ "p": "editor" }))).await;
    connection.send(&json!({ "type": "connect", "client": client, "active": active })).await;
    connection.expect("connected").await;
    eventually("the store knows", || async {
        number(hub, "SELECT count(*) FROM live_users").await > 0
    })
    .await;
    connection
}

#[tokio::test]
async fn who_has_no_connection_gets_the_push_at_once() {
    let (hub, stand_in) = hub_and_stand_in(patient).await;
    register(&hub, "ana", "phone", json!({})).await;
    let mut asked = notify("ana", "Leak", "critical");
    asked["body"] = json!("Level 2");
    asked["link"] = json!("app://alert/7");
    asked["data"] = json!({ "alert": 7 });
    asked["category"] = json!("alert");
    let results = publish(&hub, &[asked]).await;
    let sent = sent(&stand_in, 1).await.remove(0);
    let message = &sent.message;
    assert_eq!(sent.to, super::expo("phone"));
    for (field, value) in [
        ("title", json!("Leak")),
        ("body", json!("Level 2")),
        ("badge", json!(1)),
        ("priority", json!("high")),
        ("interruptionLevel", json!("time-sensitive")),
        ("categoryId", json!("alert")),
    ] {
        assert_eq!(message[field], value, "{message}");
    }
    let data = &message["data"];
    assert_eq!((&data["link"], &data["data"]), (&json!("app://alert/7"), &json!({ "alert": 7 })));
    assert_eq!((&data["project"], &data["seq"]), (&json!("p"), &results[0]["seq"]));
    let (_, inbox) = get(&hub, "ana", "/v1/notifications").await;
    assert_eq!(inbox["notifications"][0]["nid"], data["nid"], "what is pushed is in the inbox");
    hub.stop().await;
}

#[tokio::test]
async fn a_dead_link_in_the_scheme_of_another_app_is_not_passed_on() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    let mut asked = notify("ana", "t", "high");
    asked["link"] = json!("javascript:alert(1)");
    publish(&hub, &[asked]).await;
    let sent = sent(&stand_in, 1).await;
    assert!(sent[0].message["data"].get("link").is_none());
    let (_, inbox) = get(&hub, "ana", "/v1/notifications").await;
    assert_eq!(inbox["notifications"][0].get("link"), None, "nor where it is read");
    hub.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_on_any_instance_disarms_for_the_user() {
    let stand_in = stand_in().await;
    let database = postgres::fresh_database().await;
    let start = || {
        TestHub::start_with(|config| {
            eager(config, &stand_in);
            patient(config);
            config.store.url = database.clone();
        })
    };
    let (here, there) = (start().await, start().await);
    register(&here, "ana", "phone", json!({})).await;
    register(&here, "ana", "tablet", json!({})).await;
    let mut ana = connected(&there, "ana", "phone", true).await;
    let seq = publish(&here, &[notify("ana", "t", "high")]).await.remove(0)["seq"].clone();
    assert_eq!(number(&here, WAITING).await, 1, "it waits, because ana is on the other instance");
    assert_eq!(ana.ask(json!({ "type": "ack", "project": "p", "seq": seq })).await["type"], "ok");
    eventually("canceled", || async { number(&here, CANCELED).await == 1 }).await;
    change(&here, PASS).await;
    publish(&here, &[notify("bo", "t", "high")]).await;
    settled(&here).await;
    assert_eq!(stand_in.sent(), []);
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_socket_that_is_open_and_dead_gets_its_push_when_the_grace_is_over() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.grace_high = Duration::from_millis(300);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    let mut ana = connected(&hub, "ana", "phone", true).await;
    publish(&hub, &[notify("ana", "t", "high")]).await;
    assert_eq!(ana.expect("notification").await["title"], "t");
    let sent = sent(&stand_in, 1).await;
    let armed = number(&hub, "SELECT max(created_at) FROM push_intents").await;
    assert!(sent[0].at >= armed + 300, "not before the grace is over");
    hub.stop().await;
}

#[tokio::test]
async fn who_comes_back_within_the_grace_gets_no_push() {
    let (hub, stand_in) = hub_and_stand_in(patient).await;
    register(&hub, "ana", "phone", json!({})).await;
    let ana = connected(&hub, "ana", "phone", true).await;
    let seq = publish(&hub, &[notify("ana", "t", "high")]).await.remove(0)["seq"].clone();
    ana.close().await;
    let mut ana = connected(&hub, "ana", "phone", true).await;
    ana.ask(json!({ "type": "ack", "project": "p", "seq": seq })).await;
    eventually("canceled", || async { number(&hub, CANCELED).await == 1 }).await;
    change(&hub, PASS).await;
    settled(&hub).await;
    assert_eq!(stand_in.sent(), []);
    hub.stop().await;
}

#[tokio::test]
async fn an_app_in_the_background_silences_its_own_device_only() {
    let (hub, stand_in) = hub_and_stand_in(patient).await;
    register(&hub, "ana", "phone", json!({})).await;
    register(&hub, "ana", "tablet", json!({})).await;
    let mut phone = connected(&hub, "ana", "phone", false).await;
    let seq = publish(&hub, &[notify("ana", "t", "high")]).await.remove(0)["seq"].clone();
    phone.ask(json!({ "type": "ack", "project": "p", "seq": seq })).await;
    eventually("the store knows", || async {
        number(&hub, "SELECT count(*) FROM device_cursors WHERE acked > 0").await == 1
    })
    .await;
    assert_eq!(number(&hub, WAITING).await, 1);
    change(&hub, PASS).await;
    let sent = sent(&stand_in, 1).await;
    settled(&hub).await;
    assert_eq!(sent.iter().map(|s| s.to.clone()).collect::<Vec<_>>(), [super::expo("tablet")]);
    assert_eq!(stand_in.sent().len(), 1);
    hub.stop().await;
}

#[tokio::test]
async fn what_was_read_is_not_pushed_and_the_badge_counts_the_rest() {
    let (hub, stand_in) = hub_and_stand_in(patient).await;
    register(&hub, "ana", "phone", json!({})).await;
    let ana = connected(&hub, "ana", "web", true).await;
    publish(&hub, &["one", "two", "three"].map(|title| notify("ana", title, "normal"))).await;
    let (_, inbox) = get(&hub, "ana", "/v1/notifications?limit=2").await;
    assert_eq!(
        (&inbox["unread"], inbox["notifications"].as_array().unwrap().len()),
        (&json!(3), 2)
    );
    let next = inbox["next"].as_str().unwrap();
    let (_, rest) = get(&hub, "ana", &format!("/v1/notifications?before={next}")).await;
    assert_eq!(rest["notifications"][0]["title"], "one");
    let nid = inbox["notifications"][0]["nid"].as_str().unwrap();
    assert_eq!(post(&hub, "bo", &format!("/v1/notifications/{nid}/read"), &json!({})).await.0, 204);
    assert_eq!(number(&hub, CANCELED).await, 0, "somebody else's reading says nothing");
    assert_eq!(
        post(&hub, "ana", &format!("/v1/notifications/{nid}/read"), &json!({})).await.0,
        204
    );
    assert_eq!(number(&hub, CANCELED).await, 1);
    change(&hub, PASS).await;
    let sent = sent(&stand_in, 2).await;
    settled(&hub).await;
    let mut pushed = titles(&stand_in.sent());
    pushed.sort();
    assert_eq!(pushed, ["one", "two"]);
    assert!(sent.iter().all(|sent| sent.message["badge"] == 2), "{sent:?}");
    let (_, answer) = post(&hub, "ana", "/v1/notifications/seen", &json!({})).await;
    assert_eq!(answer, json!({ "seen": 2 }), "what was read was seen");
    let (_, answer) = post(&hub, "ana", "/v1/notifications/read-all", &json!({})).await;
    assert_eq!(answer, json!({ "read": 2 }));
    let (_, inbox) = get(&hub, "ana", "/v1/notifications").await;
    assert_eq!(inbox["unread"], 0);
    ana.close().await;
    hub.stop().await;
}

#[tokio::test]
async fn an_inbox_shows_the_projects_the_token_grants() {
    let (hub, _stand_in) = hub_and_stand_in(|_| {}).await;
    publish(&hub, &[notify("ana", "of p", "normal")]).await;
    let ask = |projects| {
        let bearer = token("ana", &projects);
        let request = reqwest::Client::new().get(hub.http("/v1/notifications")).bearer_auth(bearer);
        super::answer(request)
    };
    assert_eq!(ask(json!({ "p": "viewer" })).await.1["unread"], 1);
    assert_eq!(ask(json!({ "q": "viewer" })).await.1["unread"], 0);
    let (status, _) = get(&hub, "ana", "/v1/notifications?project=q").await;
    assert_eq!(status, 403);
    hub.stop().await;
}

#[tokio::test]
async fn a_test_goes_the_way_of_every_other_push() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    let body = json!({ "project": "p" });
    let (status, answer) = post(&hub, "ana", "/v1/notifications/test", &body).await;
    assert_eq!(status, 200, "{answer}");
    let sent = sent(&stand_in, 1).await;
    assert_eq!(sent[0].message["data"]["nid"], answer["nid"]);
    let (status, _) = admin(&hub, "/v1/push/queue", None).await;
    assert_eq!(status, 200);
    hub.stop().await;
}
