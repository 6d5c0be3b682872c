//! Words: languages, gathering, caps, rules.

use std::time::Duration;

use serde_json::{Value, json};
use syncline::config::Config;
use syncline::config::push::{QuietAction, Rule};
use syncline::protocol::notify::Lane;

use super::{
    admin, change, expo, get, hub_and_stand_in, notify, number, publish, register, sent, settled,
    titles,
};
use crate::support::client::{Client, create, update};
use crate::support::eventually;
use crate::support::hub::token;

/// The templates that come with the program.
fn templates(config: &mut Config) {
    config.push.templates = concat!(env!("CARGO_MANIFEST_DIR"), "/config/templates").into();
}

fn templated(user: &str, title: &str) -> Value {
    json!({
        "users": [user], "template": "alert", "vars": { "title": title, "risk": "high" },
        "lane": "high", "collapse": "alerts",
    })
}

/// As if the window of every collapse key had passed, or the night.
const PASS: &str = "UPDATE push_windows SET sent_at = 0";
const WAKE: &str = "UPDATE push_intents SET not_before = 0 WHERE state = 'waiting'";
const DEFERRED: &str = "SELECT count(*) FROM push_intents WHERE state = 'waiting'";

#[tokio::test]
async fn every_device_reads_its_own_language() {
    let (hub, stand_in) = hub_and_stand_in(templates).await;
    register(&hub, "ana", "german", json!({ "locale": "de-AT" })).await;
    register(&hub, "ana", "polish", json!({ "locale": "pl" })).await;
    register(&hub, "ana", "other", json!({ "locale": "ja" })).await;
    publish(&hub, &[templated("ana", "Leck")]).await;
    let mut bodies: Vec<_> = sent(&stand_in, 3)
        .await
        .into_iter()
        .map(|sent| (sent.to, sent.message["body"].as_str().unwrap().to_owned()))
        .collect();
    bodies.sort();
    let wanted = [("german", "Risiko: high"), ("other", "Risk: high"), ("polish", "Ryzyko: high")];
    assert_eq!(bodies, wanted.map(|(device, body)| (expo(device), body.to_owned())));
    let (_, inbox) = get(&hub, "ana", "/v1/notifications?locale=de").await;
    assert_eq!(inbox["notifications"][0]["body"], "Risiko: high");
    let preview = json!({ "template": "alert", "locale": "pl", "vars": { "title": "x", "risk": "y" }, "count": 5 });
    let (status, text) = admin(&hub, "/v1/push/preview", Some(&preview)).await;
    assert_eq!((status, &text["title"]), (200, &json!("5 nowych alertów")));
    let (status, _) = admin(&hub, "/v1/push/preview", Some(&json!({ "template": "alert" }))).await;
    assert_eq!(status, 400, "a variable is missing");
    hub.stop().await;
}

#[tokio::test]
async fn a_template_that_cannot_be_filled_does_not_silence_an_sos() {
    let (hub, stand_in) = hub_and_stand_in(templates).await;
    register(&hub, "ana", "phone", json!({})).await;
    publish(
        &hub,
        &[
            json!({ "users": ["ana"], "template": "alert", "lane": "critical" }),
            json!({ "users": ["ana"], "template": "no such", "title": "Help", "lane": "critical" }),
        ],
    )
    .await;
    let mut titles = titles(&sent(&stand_in, 2).await);
    titles.sort();
    assert_eq!(titles, ["Help", "New notification"]);
    hub.stop().await;
}

#[tokio::test]
async fn the_first_comes_at_once_and_the_others_together() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        templates(config);
        config.push.coalesce = Duration::from_secs(600);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    publish(&hub, &[templated("ana", "one")]).await;
    let first = sent(&stand_in, 1).await;
    publish(&hub, &["two", "three", "four"].map(|title| templated("ana", title))).await;
    eventually("they wait", || async {
        number(&hub, "SELECT count(*) FROM push_intents WHERE reason = 'gathered'").await == 3
    })
    .await;
    let (_, inbox) = get(&hub, "ana", "/v1/notifications").await;
    let nid = inbox["notifications"][1]["nid"].as_str().unwrap();
    super::post(&hub, "ana", &format!("/v1/notifications/{nid}/read"), &json!({})).await;
    change(&hub, PASS).await;
    change(&hub, WAKE).await;
    let sent = sent(&stand_in, 2).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["one", "2 new alerts"], "what was read is not counted");
    assert_eq!(sent[1].message["body"], "The latest: four");
    assert_eq!(sent[1].message["badge"], 3);
    assert_eq!(
        first[0].message["collapseId"], sent[1].message["collapseId"],
        "it replaces the first"
    );
    // All that waits is read: nothing is left to say.
    publish(&hub, &[templated("ana", "five")]).await;
    eventually("it waits", || async { number(&hub, DEFERRED).await == 1 }).await;
    super::post(&hub, "ana", "/v1/notifications/read-all", &json!({})).await;
    change(&hub, WAKE).await;
    settled(&hub).await;
    assert_eq!(stand_in.sent().len(), 2);
    hub.stop().await;
}

#[tokio::test]
async fn quiet_hours_can_swallow_and_caps_hold_back() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.quiet_from = "00:00".into();
        config.push.quiet_to = "23:59:59".into();
        config.push.quiet_action = QuietAction::Suppress;
        config.push.cap_per_hour = 2;
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    let mut all = vec![notify("ana", "quiet", "normal")];
    all.extend((0..4).map(|_| notify("ana", "capped", "high")));
    all.extend((0..4).map(|_| notify("ana", "urgent", "critical")));
    publish(&hub, &all).await;
    sent(&stand_in, 6).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()).iter().filter(|title| *title == "capped").count(), 2);
    let (_, stats) = admin(&hub, "/v1/push/stats", None).await;
    let suppressed = |lane: &str, reason: &str| {
        let lines = stats.as_array().unwrap().iter();
        lines.filter(|s| s["lane"] == lane).find_map(|s| s["suppressed"][reason].as_i64())
    };
    assert_eq!(suppressed("high", "cap"), Some(2), "{stats}");
    assert_eq!(suppressed("normal", "quiet hours"), Some(1), "{stats}");
    hub.stop().await;
}

#[tokio::test]
async fn a_rule_notifies_without_being_asked() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        templates(config);
        let rule = |lane, values: &[&str]| Rule {
            entity: "task".into(),
            on: vec!["create".into(), "update".into()],
            field: "risk".into(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            users_field: "owner".into(),
            template: "alert".into(),
            link: "app://{project}/task/{id}".into(),
            lane,
            ..Rule::default()
        };
        config.push.rules = vec![rule(Lane::Critical, &["critical"]), rule(Lane::High, &["high"])];
    })
    .await;
    register(&hub, "bo", "phone", json!({})).await;
    register(&hub, "ana", "anas", json!({})).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let fields = |risk: &str, owner: &str| json!({ "title": "Leak", "risk": risk, "owner": owner });
    ana.write(
        "p",
        json!([
            create("1", "t1", &fields("low", "bo")),
            create("2", "t2", &fields("critical", "bo")),
            create("3", "t3", &fields("critical", "ana")),
            update("4", "t1", 1, &json!({ "risk": "high" })),
            update("5", "t1", 4, &json!({ "title": "Big leak" })),
        ]),
    )
    .await;
    let mut pushed: Vec<_> =
        sent(&stand_in, 2).await.into_iter().map(|sent| sent.message).collect();
    settled(&hub).await;
    assert_eq!(stand_in.sent().len(), 2, "the actor and other changes are left out");
    pushed.sort_by_key(|message| message["data"]["seq"].as_u64());
    for (message, body, link) in [
        (&pushed[0], "Risk: critical", "app://p/task/t2"),
        (&pushed[1], "Risk: high", "app://p/task/t1"),
    ] {
        assert_eq!((&message["title"], &message["body"]), (&json!("Leak"), &json!(body)));
        assert_eq!(message["data"]["link"], link);
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_rule_tells_of_what_was_deleted_and_stores_little_of_what_is_large() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        templates(config);
        let rule = |on: &str| Rule {
            entity: "task".into(),
            on: vec![on.into()],
            users_field: "owner".into(),
            template: "alert".into(),
            lane: Lane::High,
            ..Rule::default()
        };
        config.push.rules = vec![rule("create"), rule("delete")];
    })
    .await;
    register(&hub, "bo", "phone", json!({})).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let large = json!({ "title": "é".repeat(30_000), "risk": "high", "notes": "n".repeat(60_000), "owner": "bo" });
    let small =
        json!({ "title": "Leak", "risk": "low", "notes": "n".repeat(60_000), "owner": "bo" });
    ana.write("p", json!([create("1", "t1", &large), create("2", "t2", &small)])).await;
    sent(&stand_in, 2).await;
    let gone = json!({ "op_id": "3", "kind": "delete", "type": "task", "id": "t2", "base": 2 });
    ana.write("p", json!([gone])).await;
    let told = sent(&stand_in, 3).await.remove(2).message;
    assert_eq!(
        (&told["title"], &told["body"]),
        (&json!("Leak"), &json!("Risk: low")),
        "what it was"
    );
    let longest = "SELECT max(length(vars)) FROM notifications";
    assert!(number(&hub, longest).await < 8400);
    let mut of_large =
        stand_in.sent().into_iter().filter(|sent| sent.message["body"] == "Risk: high");
    let title = of_large.next().unwrap().message["title"].as_str().unwrap().to_owned();
    assert!(title.starts_with("éé") && title.ends_with('…'), "{title}");
    hub.stop().await;
}

#[tokio::test]
async fn what_is_too_old_is_never_sent() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.down = true);
    let mut brief = notify("ana", "brief", "high");
    brief["ttl"] = json!(60);
    publish(&hub, &[brief, notify("ana", "lasting", "high")]).await;
    eventually("both wait", || async {
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state = 'retry'").await == 2
    })
    .await;
    change(&hub, "UPDATE push_deliveries SET expires_at = expires_at - 120000, next_at = 0").await;
    eventually("expired", || async {
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state = 'expired'").await == 1
    })
    .await;
    stand_in.script(|script| script.down = false);
    hub.hub().store.reopen_gate("expo").await.unwrap();
    sent(&stand_in, 1).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["lasting"]);
    hub.stop().await;
}

#[tokio::test]
async fn members_are_told_if_they_may_read_it_and_never_who_did_it() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        let guest = syncline::config::Role { read: vec!["note".into()], ..Default::default() };
        config.roles.0.insert("guest".into(), guest);
    })
    .await;
    change(
        &hub,
        "INSERT INTO memberships (project, user_id, role, revision, updated_at) VALUES
        ('p', 'ana', 'editor', 1, 0), ('p', 'bo', 'viewer', 2, 0), ('p', 'cy', 'guest', 3, 0),
        ('p', 'di', NULL, 4, 0), ('q', 'zoe', 'editor', 5, 0)",
    )
    .await;
    for user in ["ana", "bo", "cy", "di", "eve", "zoe"] {
        register(&hub, user, user, json!({})).await;
    }
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let mut told = 0;
    for (id, whom, names) in [
        ("1", json!({ "members": true }), vec!["bo"]),
        ("2", json!({ "roles": ["editor", "guest"] }), vec![]),
        ("3", json!({ "users": ["cy", "di", "eve", "bo"], "members": true }), vec!["bo", "eve"]),
    ] {
        let mut op = create(id, id, &json!({}));
        op["notify"] = whom;
        op["notify"]["title"] = json!(id);
        ana.write("p", json!([op])).await;
        let all = sent(&stand_in, told + names.len()).await;
        settled(&hub).await;
        assert_eq!(stand_in.sent().len(), told + names.len());
        let mut reached: Vec<_> = all[told..].iter().map(|sent| sent.to.clone()).collect();
        reached.sort();
        assert_eq!(reached, names.iter().map(|name| expo(name)).collect::<Vec<_>>(), "{id}");
        told += names.len();
    }
    // A backend is nobody's member: all who may read it hear of what it says.
    publish(&hub, &[json!({ "members": true, "title": "from a backend" })]).await;
    let all = sent(&stand_in, told + 2).await;
    settled(&hub).await;
    let mut reached: Vec<_> = all[told..].iter().map(|sent| sent.to.clone()).collect();
    reached.sort();
    assert_eq!(reached, [expo("ana"), expo("bo")]);
    hub.stop().await;
}
