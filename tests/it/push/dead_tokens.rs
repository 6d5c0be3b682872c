//! Tokens that reach nobody: one is given up, very many at once are a mistake of somebody else's.

use std::time::Duration;

use serde_json::json;

use super::{change, expo, hub_and_stand_in, notify, number, publish, register, sent, settled};
use crate::support::eventually;

const DISABLED: &str = "SELECT count(*) FROM push_tokens WHERE state = 'disabled'";
const SUSPECT: &str = "SELECT count(*) FROM push_tokens WHERE state = 'suspect'";
const ACCEPTED: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'accepted'";
/// As if it were time to ask for every receipt.
const ASK: &str = "UPDATE push_deliveries SET next_at = 0 WHERE state = 'accepted'";

#[tokio::test]
async fn a_third_of_all_tokens_dead_at_once_is_not_believed() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.linger = Duration::from_millis(200);
    })
    .await;
    let mut all = Vec::new();
    for n in 0..100 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
        all.push(notify(&format!("u{n}"), "t", "normal"));
    }
    stand_in.script(|script| {
        let dead = (0..100).filter(|n| n % 3 == 0);
        let dead = dead.map(|n| (expo(&format!("d{n}")), "DeviceNotRegistered".to_owned()));
        script.tickets = dead.collect();
    });
    publish(&hub, &all).await;
    settled(&hub).await;
    assert_eq!(stand_in.sent().len(), 66);
    assert_eq!((number(&hub, DISABLED).await, number(&hub, SUSPECT).await), (0, 34));
    assert_eq!(hub.metric("syncline_push_spikes_total"), 1.0);
    eventually("operators see it", || async {
        hub.metric("syncline_push_held{reason=\"dead_tokens\"}") == 1.0
    })
    .await;
    // It was a mistake: they are alive.
    stand_in.script(|script| script.tickets.clear());
    publish(&hub, &all).await;
    sent(&stand_in, 166).await;
    eventually("believed again", || async {
        number(&hub, "SELECT count(*) FROM push_tokens WHERE state = 'active'").await == 100
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_few_dead_tokens_are_disabled_and_get_nothing_more() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    register(&hub, "ana", "tablet", json!({})).await;
    let dead = "DeviceNotRegistered".to_owned();
    stand_in.script(|script| {
        script.tickets.insert(expo("phone"), dead.clone());
        script.receipts.insert(expo("tablet"), dead);
        script.receipt_delay = 1;
    });
    publish(&hub, &[notify("ana", "t", "high")]).await;
    eventually("one by its ticket, one by its receipt", || async {
        number(&hub, DISABLED).await == 2
    })
    .await;
    let accepted = stand_in.log().accepted;
    publish(&hub, &[notify("ana", "t", "high")]).await;
    settled(&hub).await;
    assert_eq!(stand_in.log().accepted, accepted);
    let reason = "SELECT count(*) FROM push_intents WHERE state = 'done' AND reason = 'no device'";
    assert_eq!(number(&hub, reason).await, 1);
    register(&hub, "ana", "phone", json!({})).await;
    assert_eq!(number(&hub, "SELECT count(*) FROM push_tokens WHERE state = 'active'").await, 1);
    hub.stop().await;
}

#[tokio::test]
async fn receipts_that_call_every_token_dead_are_not_believed_either() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.receipt_after = Duration::from_secs(3600);
    })
    .await;
    let mut all = Vec::new();
    for n in 0..60 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
        all.push(notify(&format!("u{n}"), "t", "normal"));
    }
    stand_in.script(|script| {
        let dead = (0..60).map(|n| (expo(&format!("d{n}")), "DeviceNotRegistered".to_owned()));
        script.receipts = dead.collect();
    });
    publish(&hub, &all).await;
    eventually("all are accepted", || async { number(&hub, ACCEPTED).await == 60 }).await;
    // So much later that nothing is known any more of how many were accepted.
    assert_eq!(change(&hub, "UPDATE push_gates SET state = '{}'").await, 2);
    assert_eq!(change(&hub, ASK).await, 60);
    let dead = "SELECT count(*) FROM push_deliveries WHERE state = 'dead_token'";
    eventually("every receipt", || async { number(&hub, dead).await == 60 }).await;
    assert_eq!((number(&hub, DISABLED).await, number(&hub, SUSPECT).await), (0, 60));
    assert_eq!(hub.metric("syncline_push_spikes_total"), 1.0);
    hub.stop().await;
}

#[tokio::test]
async fn a_suspect_is_cleared_by_its_receipt_and_not_by_a_ticket() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.receipt_after = Duration::from_secs(3600);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    change(&hub, "UPDATE push_tokens SET state = 'suspect', reason = 'dead'").await;
    publish(&hub, &[notify("ana", "t", "high")]).await;
    sent(&stand_in, 1).await;
    eventually("accepted", || async { number(&hub, ACCEPTED).await == 1 }).await;
    let reached = "SELECT count(*) FROM push_tokens WHERE last_success_at IS NOT NULL";
    assert_eq!((number(&hub, SUSPECT).await, number(&hub, reached).await), (1, 0));
    change(&hub, ASK).await;
    eventually("handed over", || async { number(&hub, reached).await == 1 }).await;
    assert_eq!(number(&hub, SUSPECT).await, 0);
    hub.stop().await;
}
