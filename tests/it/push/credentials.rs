//! Credentials that are refused: all of the provider's, or those of one of its projects.

use std::time::Duration;

use serde_json::json;

use super::{expo, hub_and_stand_in, notify, number, publish, register, sent, settled, titles};
use crate::support::eventually;

const RETRY: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'retry'";

#[tokio::test]
async fn a_wrong_access_token_holds_everything_until_it_is_right() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.access_token = "right".into();
        config.push.expo.breaker = Duration::from_secs(60);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.access_token = Some("another".into()));
    publish(&hub, &[notify("ana", "held", "high")]).await;
    eventually("the alarm", || async { hub.metric("syncline_push_breakers_opened_total") == 1.0 })
        .await;
    let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
    assert!(gate.credentials && gate.reopens(now).is_some());
    assert_eq!(number(&hub, RETRY).await, 1, "held, not lost");
    let held = |reason: &str| hub.metric(&format!("syncline_push_held{{reason=\"{reason}\"}}"));
    eventually("operators see it", || async {
        held("credentials") == 1.0 && hub.metric("syncline_push_queue{state=\"retry\"}") == 1.0
    })
    .await;
    assert_eq!((held("breaker"), held("dead_tokens")), (0.0, 0.0));
    assert_eq!(number(&hub, "SELECT attempt FROM push_deliveries").await, 0);
    stand_in.script(|script| script.access_token = Some("right".into()));
    hub.hub().store.reopen_gate("expo").await.unwrap();
    assert_eq!(titles(&sent(&stand_in, 1).await), ["held"]);
    eventually("operators see that it is over", || async {
        held("credentials") == 0.0 && hub.metric("syncline_push_queue{state=\"retry\"}") == 0.0
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn one_projects_credentials_hold_its_own_pushes_only() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    for user in ["ana", "bo", "cy", "di"] {
        register(&hub, user, user, json!({})).await;
    }
    stand_in.script(|script| {
        script.tickets.insert(expo("ana"), "InvalidCredentials".into());
        script.tickets.insert(expo("bo"), "MismatchSenderId".into());
        script.receipts.insert(expo("cy"), "InvalidCredentials".into());
    });
    publish(&hub, &["ana", "bo", "cy"].map(|user| notify(user, "held", "high"))).await;
    eventually("all three are held", || async { number(&hub, RETRY).await == 3 }).await;
    let waits = "SELECT min(next_at - sent_at) FROM push_deliveries WHERE state = 'retry'";
    assert!(number(&hub, waits).await >= 300_000, "for a while");
    let attempts = "SELECT sum(attempt) FROM push_deliveries WHERE state = 'retry'";
    assert_eq!(number(&hub, attempts).await, 0, "at the cost of no attempt");
    assert_eq!(hub.metric("syncline_push_misconfigured_total"), 3.0, "operators are told");
    assert_eq!(hub.metric("syncline_push_breakers_opened_total"), 0.0);
    let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
    assert!(!gate.credentials && gate.reopens(now).is_none(), "the gate is open for all others");

    publish(&hub, &[notify("di", "at once", "normal")]).await;
    eventually("who has nothing to do with it gets theirs", || async {
        stand_in.sent().iter().any(|sent| sent.to == expo("di"))
    })
    .await;
    stand_in.script(|script| {
        script.tickets.clear();
        script.receipts.clear();
    });
    hub.hub().store.reopen_gate("expo").await.unwrap();
    for user in ["ana", "bo"] {
        eventually("an operator has mended it", || async {
            stand_in.sent().iter().any(|sent| sent.to == expo(user))
        })
        .await;
    }
    settled(&hub).await;
    hub.stop().await;
}
