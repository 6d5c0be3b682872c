//! Several in one push, and pushes that wait: they say what is true when they are sent.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    admin, change, expo, get, hub_and_stand_in, notify, number, post, publish, register, sent,
    settled, titles,
};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};

const RETRY: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'retry'";
/// Nobody is just sending what the provider turned away.
const PUT_OFF: &str = "UPDATE push_deliveries SET next_at = next_at + 600000 WHERE state = 'retry'";

fn gathering(config: &mut syncline::config::Config) {
    config.push.templates = concat!(env!("CARGO_MANIFEST_DIR"), "/config/templates").into();
    config.push.coalesce = Duration::from_secs(600);
    config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
}

fn alert(title: &str) -> Value {
    json!({
        "users": ["ana"], "template": "alert", "vars": { "title": title, "risk": "high" },
        "lane": "high", "collapse": "alerts",
    })
}

/// As if every window had passed.
async fn windows_end(hub: &TestHub) {
    change(hub, "UPDATE push_windows SET sent_at = 0").await;
    change(hub, "UPDATE push_intents SET not_before = 0 WHERE state = 'waiting'").await;
}

/// `two`, `three` and `four` are gathered after `one`, and wait together for a provider that is down. Returns
/// the position of each.
async fn three_wait(hub: &TestHub, stand_in: &syncline::push::stand_in::StandIn) -> Vec<Value> {
    register(hub, "ana", "phone", json!({})).await;
    publish(hub, &[alert("one")]).await;
    sent(stand_in, 1).await;
    let results = publish(hub, &["two", "three", "four"].map(alert)).await;
    eventually("they wait for the window", || async {
        number(hub, "SELECT count(*) FROM push_intents WHERE reason = 'gathered'").await == 3
    })
    .await;
    stand_in.script(|script| script.down = true);
    windows_end(hub).await;
    eventually("they wait for the provider", || async { change(hub, PUT_OFF).await == 1 }).await;
    results.into_iter().map(|result| result["seq"].clone()).collect()
}

async fn provider_is_back(hub: &TestHub, stand_in: &syncline::push::stand_in::StandIn) {
    stand_in.script(|script| script.down = false);
    hub.hub().store.reopen_gate("expo").await.unwrap();
}

/// What the notification with this title is called.
async fn nid(hub: &TestHub, of: &str) -> String {
    let (_, inbox) = get(hub, "ana", "/v1/notifications").await;
    let all = inbox["notifications"].as_array().unwrap();
    all.iter().find(|n| n["title"] == of).unwrap()["nid"].as_str().unwrap().to_owned()
}

/// Reads the notification with this title.
async fn read(hub: &TestHub, of: &str) {
    let nid = nid(hub, of).await;
    assert_eq!(post(hub, "ana", &format!("/v1/notifications/{nid}/read"), &json!({})).await.0, 204);
}

/// Ana sees everything up to there on this installation; an empty one has no name.
async fn sees(hub: &TestHub, client: &str, seq: &Value, active: bool) {
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    if !client.is_empty() {
        ana.send(&json!({ "type": "connect", "client": client, "active": active })).await;
        ana.expect("connected").await;
    }
    assert_eq!(ana.ask(json!({ "type": "ack", "project": "p", "seq": seq })).await["type"], "ok");
    let far = "SELECT COALESCE(max(acked), 0) FROM device_cursors";
    eventually("the store knows", || async { number(hub, far).await >= seq.as_i64().unwrap() })
        .await;
    ana.close().await;
}

#[tokio::test]
async fn a_gathered_push_outlives_the_reading_of_the_latest() {
    let (hub, stand_in) = hub_and_stand_in(gathering).await;
    let seqs = three_wait(&hub, &stand_in).await;
    read(&hub, "four").await;
    assert_eq!(number(&hub, RETRY).await, 1, "two are left to tell of");
    provider_is_back(&hub, &stand_in).await;
    let sent = sent(&stand_in, 2).await;
    let message = &sent[1].message;
    assert_eq!(
        (&message["title"], &message["body"]),
        (&json!("2 new alerts"), &json!("The latest: three"))
    );
    assert_eq!(message["badge"], 3, "as many as are unread now");
    // It is the push of the latest that is left, and still replaces the one before.
    let name = nid(&hub, "three").await;
    assert_eq!((&message["data"]["nid"], &message["data"]["seq"]), (&json!(name), &seqs[1]));
    assert_eq!(message["collapseId"], sent[0].message["collapseId"]);
    let opened = json!({ "nid": name, "report": message["data"]["report"] });
    assert_eq!(post(&hub, "ana", "/v1/push/opened", &opened).await.0, 204);
    let counted = "SELECT count(*) FROM push_deliveries WHERE opened_at IS NOT NULL";
    assert_eq!(number(&hub, counted).await, 1);
    hub.stop().await;
}

#[tokio::test]
async fn of_a_gathered_push_all_of_which_was_read_nothing_is_left() {
    let (hub, stand_in) = hub_and_stand_in(gathering).await;
    three_wait(&hub, &stand_in).await;
    for (title, left) in [("three", 1), ("four", 1), ("two", 0)] {
        read(&hub, title).await;
        assert_eq!(number(&hub, RETRY).await, left, "{title}");
    }
    let (_, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
    let canceled = stats.as_array().unwrap().iter().find(|line| line["provider"] == "expo");
    assert_eq!(canceled.unwrap()["canceled"], json!({ "read": 1 }), "{stats}");
    provider_is_back(&hub, &stand_in).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["one"]);
    hub.stop().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_not_counted_and_the_last_one_disarms() {
    let (hub, stand_in) = hub_and_stand_in(gathering).await;
    let seqs = three_wait(&hub, &stand_in).await;
    register(&hub, "ana", "tablet", json!({})).await;
    sees(&hub, "", &seqs[0], true).await;
    sees(&hub, "phone", &seqs[1], false).await;
    assert_eq!(number(&hub, RETRY).await, 1);
    provider_is_back(&hub, &stand_in).await;
    let sent = sent(&stand_in, 2).await;
    assert_eq!(
        sent[1].message["title"], "four",
        "the phone has stored three, and somebody has seen two"
    );
    hub.stop().await;

    let (hub, stand_in) = hub_and_stand_in(gathering).await;
    let seqs = three_wait(&hub, &stand_in).await;
    sees(&hub, "", &seqs[1], true).await;
    assert_eq!(number(&hub, RETRY).await, 1);
    provider_is_back(&hub, &stand_in).await;
    let told = self::sent(&stand_in, 2).await;
    assert_eq!(
        told[1].message["title"], "four",
        "somebody has seen two and three, nobody knows where"
    );
    hub.stop().await;

    let (hub, stand_in) = hub_and_stand_in(gathering).await;
    let seqs = three_wait(&hub, &stand_in).await;
    sees(&hub, "web", &seqs[2], true).await;
    eventually("nothing is left to tell of", || async { number(&hub, RETRY).await == 0 }).await;
    provider_is_back(&hub, &stand_in).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["one"]);
    hub.stop().await;
}

#[tokio::test]
async fn what_was_seen_while_it_was_being_sent_is_not_sent_again() {
    use syncline::push::stand_in::Behaviour;
    for client in ["web", ""] {
        let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
        register(&hub, "ana", "phone", json!({})).await;
        stand_in.script(|script| script.next.push_back(Behaviour::Hang));
        let seq = publish(&hub, &[notify("ana", "seen", "high")]).await.remove(0)["seq"].clone();
        eventually("it is being sent", || async { stand_in.log().hanging == 1 }).await;
        sees(&hub, client, &seq, true).await;
        stand_in.script(|script| script.down = true);
        stand_in.release();
        eventually("the provider failed", || async { number(&hub, RETRY).await == 1 }).await;
        provider_is_back(&hub, &stand_in).await;
        settled(&hub).await;
        assert_eq!(stand_in.sent(), []);
        let why = "SELECT count(*) FROM push_deliveries WHERE state = 'canceled' AND error = 'acknowledged'";
        assert_eq!(number(&hub, why).await, 1);
        hub.stop().await;
    }
}

#[tokio::test]
async fn a_badge_is_what_is_unread_when_it_is_sent() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.down = true);
    publish(&hub, &["a", "b", "c"].map(|title| notify("ana", title, "high"))).await;
    eventually("all wait", || async {
        change(&hub, PUT_OFF).await;
        number(&hub, RETRY).await == 3
    })
    .await;
    read(&hub, "a").await;
    provider_is_back(&hub, &stand_in).await;
    let sent = sent(&stand_in, 2).await;
    assert_eq!(sent.iter().map(|sent| sent.message["badge"].clone()).collect::<Vec<_>>(), [2, 2]);
    hub.stop().await;
}

/// An event about an entity of this type, gathered under one key.
async fn tell(hub: &TestHub, kind: &str, title: &str) {
    let event = json!({
        "project": "p", "kind": "upsert", "fields": {}, "entity": { "type": kind, "id": title },
        "notify": { "users": ["ana"], "title": title, "lane": "high", "collapse": "k" },
    });
    let (_, answer) = admin(hub, "/v1/publish", Some(&json!([event]))).await;
    assert_eq!(answer["results"][0]["outcome"], "applied", "{answer}");
}

#[tokio::test]
async fn of_several_only_those_are_told_that_may_be_read() {
    let (hub, stand_in) = hub_and_stand_in(gathering).await;
    let role = async |role: &str| {
        let url = hub.http("/v1/admin/projects/p/members/ana");
        let put = reqwest::Client::new().put(url).bearer_auth(ADMIN_TOKEN);
        let put = put.body(json!({ "role": role }).to_string()).send().await.unwrap();
        assert!(put.status().is_success());
    };
    role("editor").await;
    register(&hub, "ana", "phone", json!({})).await;
    tell(&hub, "task", "first").await;
    sent(&stand_in, 1).await;
    tell(&hub, "task", "open").await;
    tell(&hub, "payroll", "secret").await;
    eventually("they wait for the window", || async {
        number(&hub, "SELECT count(*) FROM push_intents WHERE reason = 'gathered'").await == 2
    })
    .await;
    stand_in.script(|script| script.down = true);
    windows_end(&hub).await;
    eventually("they wait for the provider", || async { change(&hub, PUT_OFF).await == 1 }).await;
    role("viewer").await;
    provider_is_back(&hub, &stand_in).await;
    let sent = sent(&stand_in, 2).await;
    assert_eq!((&sent[1].to, &sent[1].message["title"]), (&expo("phone"), &json!("open")));
    assert_eq!(sent[1].message["badge"], 2);
    hub.stop().await;
}
