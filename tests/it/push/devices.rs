//! Devices: registered over a socket and over HTTP, listed, moved, removed.

use serde_json::{Value, json};

use super::{
    change, expo, get, hub_and_stand_in, notify, number, post, publish, register, sent, settled,
    titles,
};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{TestHub, token};

async fn devices(hub: &TestHub, user: &str) -> Vec<Value> {
    let (status, answer) = get(hub, user, "/v1/push/devices").await;
    assert_eq!(status, 200, "{answer}");
    answer["devices"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_device_registers_over_a_socket_with_all_there_is_to_know() {
    let (hub, _stand_in) = hub_and_stand_in(|_| {}).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({}))).await;
    ana.send(&json!({ "type": "connect", "client": "phone" })).await;
    let mut frame = json!({
        "type": "push_device", "provider": "expo", "token": expo("x"), "platform": "android",
        "locale": "pt-BR", "tz": "America/Sao_Paulo", "app_version": "1.2", "model": "Pixel",
    });
    assert_eq!(ana.ask(frame.clone()).await["type"], "ok");
    let device = devices(&hub, "ana").await.remove(0);
    for (field, value) in [
        ("client", "phone"),
        ("provider", "expo"),
        ("platform", "android"),
        ("locale", "pt-BR"),
        ("tz", "America/Sao_Paulo"),
        ("app_version", "1.2"),
        ("model", "Pixel"),
        ("state", "active"),
    ] {
        assert_eq!(device[field], value, "{device}");
    }
    assert!(!device.to_string().contains("ExponentPushToken"), "a token is shown to nobody");
    frame["locale"] = Value::Null;
    ana.ask(frame.clone()).await;
    assert_eq!(devices(&hub, "ana").await[0]["locale"], Value::Null, "the full state, every time");
    frame["token"] = Value::Null;
    assert_eq!(ana.ask(frame).await["type"], "ok");
    assert_eq!(devices(&hub, "ana").await, [] as [Value; 0]);
    hub.stop().await;
}

#[tokio::test]
async fn of_an_installation_without_a_name_nothing_is_kept() {
    let (hub, _stand_in) = hub_and_stand_in(|_| {}).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let device =
        json!({ "type": "push_device", "provider": "expo", "token": expo("x"), "platform": "ios" });
    let refused = ana.ask(device.clone()).await;
    assert_eq!(refused["code"], "bad_request", "{refused}");
    let forget = json!({ "type": "push_device", "provider": "expo", "token": null });
    assert_eq!(ana.ask(forget).await["code"], "bad_request");
    eventually("the store knows that ana is here", || async {
        number(&hub, "SELECT count(*) FROM live_users").await == 1
    })
    .await;
    let seq = publish(&hub, &[notify("ana", "t", "normal")]).await.remove(0)["seq"].clone();
    let ack = json!({ "type": "ack", "project": "p", "seq": seq });
    assert_eq!(ana.ask(ack.clone()).await["type"], "ok");
    eventually("what a person saw is not pushed", || async {
        number(&hub, "SELECT count(*) FROM push_intents WHERE state = 'canceled'").await == 1
    })
    .await;
    assert_eq!(number(&hub, "SELECT count(*) FROM device_cursors WHERE client <> ''").await, 0);
    ana.ask(json!({ "type": "connect", "client": "phone" })).await;
    assert_eq!(ana.ask(device).await["type"], "ok", "once it has a name");
    ana.ask(ack).await;
    eventually("its cursor is kept", || async {
        number(&hub, "SELECT count(*) FROM device_cursors WHERE client = 'phone'").await == 1
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn what_a_device_says_of_itself_is_checked() {
    let (hub, _stand_in) = hub_and_stand_in(|_| {}).await;
    for (field, value) in [
        ("token", json!("not a token")),
        ("token", json!(expo(&"x".repeat(300)))),
        ("provider", json!("carrier pigeon")),
        ("platform", json!("toaster")),
        ("locale", json!("no language at all")),
        ("tz", json!("Mars/Olympus")),
        ("model", json!("m".repeat(129))),
        ("client", json!("not a client!")),
    ] {
        let mut body = json!({
            "client": "c", "provider": "expo", "platform": "ios", "token": expo("x"),
        });
        body[field] = value;
        let (status, answer) = post(&hub, "ana", "/v1/push/devices", &body).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{field}: {answer}");
    }
    assert_eq!(devices(&hub, "ana").await, [] as [Value; 0]);
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({}))).await;
    ana.send(&json!({ "type": "connect", "client": "c" })).await;
    let bad = json!({ "type": "push_device", "provider": "expo", "token": "x", "platform": "ios" });
    assert_eq!(ana.ask(bad).await["code"], "bad_request");
    hub.stop().await;
}

#[tokio::test]
async fn one_logs_out_and_another_in_on_the_same_device() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    stand_in.script(|script| script.down = true);
    register(&hub, "ana", "tablet", json!({})).await;
    register(&hub, "ana", "phone", json!({ "token": expo("anas") })).await;
    publish(&hub, &[notify("ana", "for ana alone", "normal")]).await;
    eventually("it waits for the provider", || async {
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state = 'retry'").await == 2
    })
    .await;
    register(&hub, "bo", "tablet", json!({})).await;
    assert_eq!(devices(&hub, "ana").await.len(), 1);
    assert_eq!(devices(&hub, "bo").await.len(), 1);
    stand_in.script(|script| script.down = false);
    publish(&hub, &[notify("bo", "for bo", "high")]).await;
    let sent = sent(&stand_in, 2).await;
    settled(&hub).await;
    for message in &sent {
        let title = if message.to == expo("tablet") { "for bo" } else { "for ana alone" };
        assert_eq!(message.message["title"], title);
    }
    assert_eq!(titles(&stand_in.sent()).len(), 2);
    let own = devices(&hub, "bo").await[0]["id"].clone();
    let path = hub.http(&format!("/v1/push/devices/{own}"));
    let delete = |user: &str| {
        let bearer = token(user, &json!({}));
        reqwest::Client::new().delete(&path).bearer_auth(bearer).send()
    };
    assert_eq!(delete("ana").await.unwrap().status(), 404, "somebody else's");
    assert_eq!(delete("bo").await.unwrap().status(), 204);
    assert_eq!(devices(&hub, "bo").await, [] as [Value; 0]);
    hub.stop().await;
}

#[tokio::test]
async fn what_was_on_its_way_to_a_device_never_reaches_who_logs_in_there() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    stand_in.script(|script| script.down = true);
    register(&hub, "ana", "tablet", json!({})).await;
    publish(&hub, &[notify("ana", "for ana alone", "normal")]).await;
    eventually("it waits for the provider", || async {
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state = 'retry'").await == 1
    })
    .await;
    // Accepted once, and to be sent again by its receipt, after another has logged in on the device.
    change(&hub, "UPDATE push_deliveries SET state = 'accepted'").await;
    register(&hub, "bo", "tablet", json!({})).await;
    change(&hub, "UPDATE push_deliveries SET state = 'retry', next_at = 0").await;
    stand_in.script(|script| script.down = false);
    publish(&hub, &[notify("bo", "for bo", "high")]).await;
    sent(&stand_in, 1).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["for bo"]);
    hub.stop().await;
}
