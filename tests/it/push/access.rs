//! Who may not read a type any more is told nothing of it, whatever was armed before.

use reqwest::Method;
use serde_json::{Value, json};

use super::{admin, change, hub_and_stand_in, number, register, sent, settled, titles};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};

const PAYROLL: &str = "payroll";
const WITHHELD: &str =
    "SELECT count(*) FROM push_intents WHERE state = 'canceled' AND reason = 'no access'";

/// Viewers read tasks; editors all there is.
fn roles(config: &mut syncline::config::Config) {
    config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
}

/// The back office gives ana a role in `p`, or takes her out.
async fn give(hub: &TestHub, role: Option<&str>) {
    give_in(hub, "p", role).await;
}

async fn give_in(hub: &TestHub, project: &str, role: Option<&str>) {
    let url = hub.http(&format!("/v1/admin/projects/{project}/members/ana"));
    let method = if role.is_some() { Method::PUT } else { Method::DELETE };
    let request = reqwest::Client::new().request(method, url).bearer_auth(ADMIN_TOKEN);
    let body = role.map_or_else(String::new, |role| json!({ "role": role }).to_string());
    assert!(request.body(body).send().await.unwrap().status().is_success());
}

/// An event in `p` about an entity of this type that tells ana, now or when it is told to.
async fn tell(hub: &TestHub, kind: &str, title: &str, lane: &str, send_at: Option<i64>) {
    tell_in(hub, ("p", kind), title, lane, send_at).await;
}

async fn tell_in(
    hub: &TestHub,
    (project, kind): (&str, &str),
    title: &str,
    lane: &str,
    send_at: Option<i64>,
) {
    let mut notify = json!({ "users": ["ana"], "title": title, "lane": lane });
    if let Some(at) = send_at {
        notify["send_at"] = json!(at);
    }
    let event = json!({
        "project": project, "kind": "upsert", "fields": {}, "notify": notify,
        "entity": { "type": kind, "id": uuid::Uuid::new_v4() },
    });
    let (status, answer) = admin(hub, "/v1/publish", Some(&json!([event]))).await;
    assert_eq!((status, &answer["results"][0]["outcome"]), (200, &json!("applied")), "{answer}");
}

/// The titles in ana's inbox, with what her token says and the back office leaves of it.
async fn inbox(hub: &TestHub) -> (Vec<String>, Value) {
    let bearer = token("ana", &json!({ "p": "editor" }));
    let request = reqwest::Client::new().get(hub.http("/v1/notifications")).bearer_auth(bearer);
    let (_, inbox) = super::answer(request).await;
    let shown = inbox["notifications"].as_array().unwrap().iter();
    let titles = shown.map(|n| n["title"].as_str().unwrap().to_owned()).collect();
    (titles, inbox["unread"].clone())
}

#[tokio::test]
async fn what_was_armed_before_a_type_was_lost_is_neither_shown_nor_sent() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        roles(config);
        config.push.grace_high = std::time::Duration::from_secs(600);
    })
    .await;
    give(&hub, Some("editor")).await;
    register(&hub, "ana", "phone", json!({})).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    eventually("the store knows", || async {
        number(&hub, "SELECT count(*) FROM live_users").await > 0
    })
    .await;
    let later = syncline::clock::now_ms() + 600_000;
    for kind in [PAYROLL, "task"] {
        tell(&hub, kind, &format!("{kind} now"), "high", None).await;
        tell(&hub, kind, &format!("{kind} later"), "high", Some(later)).await;
        let heard = ana.expect("notification").await;
        assert_eq!(heard["title"], format!("{kind} now"));
    }
    assert_eq!(inbox(&hub).await, (vec!["task now".into(), "payroll now".into()], json!(2)));

    give(&hub, Some("viewer")).await;
    assert_eq!(inbox(&hub).await, (vec!["task now".into()], json!(1)));
    change(&hub, "UPDATE push_intents SET not_before = 0 WHERE state IN ('waiting', 'scheduled')")
        .await;
    // The scheduled ones come first, each as a frame; the one of a type she lost would be the first.
    tell(&hub, "task", "wakes the dispatcher", "critical", None).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(ana.expect("notification").await["title"].as_str().unwrap().to_owned());
    }
    heard.sort();
    assert_eq!(heard, ["task later", "wakes the dispatcher"]);
    eventually("both decided on", || async { number(&hub, WITHHELD).await == 2 }).await;
    change(&hub, "UPDATE push_intents SET not_before = 0 WHERE state = 'waiting'").await;
    sent(&stand_in, 3).await;
    settled(&hub).await;
    let mut pushed = titles(&stand_in.sent());
    pushed.sort();
    assert_eq!(pushed, ["task later", "task now", "wakes the dispatcher"]);
    assert!(stand_in.sent().iter().all(|sent| sent.message["badge"].as_i64() <= Some(3)));
    assert_eq!(inbox(&hub).await.1, json!(3));
    hub.stop().await;
}

#[tokio::test]
async fn what_waits_for_the_provider_is_withheld_once_access_is_lost() {
    let (hub, stand_in) = hub_and_stand_in(roles).await;
    give(&hub, Some("editor")).await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.down = true);
    tell(&hub, PAYROLL, "secret", "critical", None).await;
    tell(&hub, "task", "plain", "critical", None).await;
    let waits = "SELECT count(*) FROM push_deliveries WHERE state = 'retry'";
    eventually("both met the provider", || async { number(&hub, waits).await == 2 }).await;
    give(&hub, Some("viewer")).await;
    stand_in.script(|script| script.down = false);
    hub.hub().store.reopen_gate("expo").await.unwrap();
    sent(&stand_in, 1).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["plain"]);
    let withheld = "SELECT count(*) FROM push_deliveries WHERE state = 'canceled' AND error = 'no access' AND payload = ''";
    assert_eq!(number(&hub, withheld).await, 1);
    let canceled =
        r#"syncline_push_events_total{event="canceled",lane="critical",provider="expo"}"#;
    assert_eq!(hub.metric(canceled), 1.0);

    // Taken out of the project: not even what she could read before.
    stand_in.script(|script| script.down = true);
    tell(&hub, "task", "too late", "critical", None).await;
    eventually("it met the provider", || async { number(&hub, waits).await == 1 }).await;
    give(&hub, None).await;
    stand_in.script(|script| script.down = false);
    hub.hub().store.reopen_gate("expo").await.unwrap();
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["plain"]);
    assert_eq!(inbox(&hub).await, (Vec::new(), json!(0)));
    hub.stop().await;
}

#[tokio::test]
async fn who_is_taken_out_of_a_project_leaves_nothing_waiting_and_no_badge() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.grace_high = std::time::Duration::from_secs(600);
        config.push.grace_critical = std::time::Duration::ZERO;
    })
    .await;
    give(&hub, Some("editor")).await;
    give_in(&hub, "q", Some("editor")).await;
    register(&hub, "ana", "phone", json!({})).await;
    let bearer = token("ana", &json!({ "p": "editor", "q": "editor" }));
    let ana = Client::connect(&hub.ws(), &bearer).await;
    eventually("the store knows", || async {
        number(&hub, "SELECT count(*) FROM live_users").await > 0
    })
    .await;
    stand_in.script(|script| script.down = true);
    let later = syncline::clock::now_ms() + 600_000;
    tell(&hub, "task", "waits for an acknowledgement", "high", None).await;
    tell(&hub, "task", "waits for its time", "high", Some(later)).await;
    tell(&hub, "task", "waits for the provider", "critical", None).await;
    tell_in(&hub, ("q", "task"), "of another project", "high", None).await;
    let queued = "SELECT count(*) FROM push_deliveries WHERE state = 'retry'";
    // Nobody is just sending it when she is taken out.
    let put_off = "UPDATE push_deliveries SET next_at = next_at + 600000 WHERE state = 'retry'";
    eventually("it met the provider", || async { change(&hub, put_off).await == 1 }).await;

    give(&hub, None).await;
    assert_eq!(number(&hub, WITHHELD).await, 2, "at once, not when it would be sent");
    assert_eq!(number(&hub, queued).await, 0);
    let (_, stats) = admin(&hub, "/v1/push/stats?project=p", None).await;
    let canceled = |lane: &str| {
        let line = stats.as_array().unwrap().iter().find(|line| line["lane"] == lane);
        line.map(|line| line["canceled"].clone())
    };
    assert_eq!(canceled("high"), Some(json!({ "no access": 2 })), "{stats}");
    assert_eq!(canceled("critical"), Some(json!({ "no access": 1 })), "{stats}");

    stand_in.script(|script| script.down = false);
    hub.hub().store.reopen_gate("expo").await.unwrap();
    change(&hub, "UPDATE push_intents SET not_before = 0 WHERE state = 'waiting'").await;
    let sent = sent(&stand_in, 1).await;
    settled(&hub).await;
    assert_eq!(titles(&stand_in.sent()), ["of another project"]);
    assert_eq!(sent[0].message["badge"], 1, "what is unread in a project she left is not in it");
    ana.close().await;
    hub.stop().await;
}
