//! Receipts that cannot be had: what the provider refuses to tell, and what it never tells.

use std::time::Duration;

use serde_json::json;

use syncline::store::push::receipts_gate;

use super::{change, hub_and_stand_in, notify, number, publish, register, sent, titles};
use crate::support::eventually;

const ACCEPTED: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'accepted'";
const HANDED: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'handed'";
const MISSING: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'missing'";
/// As if it were time to ask for every receipt.
const ASK: &str = "UPDATE push_deliveries SET next_at = 0 WHERE state = 'accepted'";

#[tokio::test]
async fn a_ticket_the_provider_does_not_take_keeps_no_other_from_its_receipt() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.receipt_after = Duration::from_secs(3600);
    })
    .await;
    let users: Vec<_> = (0..5).map(|n| format!("u{n}")).collect();
    for user in &users {
        register(&hub, user, user, json!({})).await;
    }
    let all: Vec<_> = users.iter().map(|user| notify(user, "t", "high")).collect();
    publish(&hub, &all).await;
    eventually("all are accepted", || async { number(&hub, ACCEPTED).await == 5 }).await;
    let spoilt = "UPDATE push_deliveries SET ticket = '' WHERE id = 2";
    assert_eq!(change(&hub, spoilt).await, 1);
    change(&hub, ASK).await;
    eventually("the others have theirs", || async { number(&hub, HANDED).await == 4 }).await;
    eventually("it has none", || async { number(&hub, MISSING).await == 1 }).await;
    let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
    assert!(gate.reopens(now).is_none(), "the provider is fine");
    assert_eq!(stand_in.log().receipts_asked, 4, "each once");
    hub.stop().await;
}

#[tokio::test]
async fn a_receipt_that_no_provider_keeps_for_so_long_is_asked_for_no_more() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.receipt_after = Duration::from_secs(900);
    })
    .await;
    for user in ["old", "new"] {
        register(&hub, user, user, json!({})).await;
    }
    publish(&hub, &["old", "new"].map(|user| notify(user, "t", "high"))).await;
    eventually("both are accepted", || async { number(&hub, ACCEPTED).await == 2 }).await;
    stand_in.script(|script| script.down = true);
    change(
        &hub,
        "UPDATE push_deliveries SET accepted_at = accepted_at - 86400000 WHERE user_id = 'old'",
    )
    .await;
    change(&hub, ASK).await;
    eventually("a day is enough", || async { number(&hub, MISSING).await == 1 }).await;
    let young = "SELECT count(*) FROM push_deliveries WHERE state = 'accepted' AND user_id = 'new'";
    assert_eq!(number(&hub, young).await, 1, "the other may come");
    hub.stop().await;
}

#[tokio::test]
async fn receipts_that_cannot_be_had_hold_up_no_push() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.breaker = Duration::from_secs(60);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.receipts_down = true);
    publish(&hub, &[notify("ana", "first", "high")]).await;
    let store = &hub.hub().store;
    let waits = async |name: &str| {
        let (gate, now) = store.gate(name).await.unwrap();
        gate.reopens(now).is_some()
    };
    let receipts = receipts_gate("expo");
    eventually("nobody asks for receipts any more", || async {
        change(&hub, ASK).await;
        waits(&receipts).await
    })
    .await;
    assert!(!waits("expo").await, "what is sent has nothing to do with it");
    assert_eq!(hub.metric("syncline_push_breakers_opened_total"), 0.0);
    publish(&hub, &[notify("ana", "SOS", "critical")]).await;
    assert_eq!(titles(&sent(&stand_in, 2).await), ["first", "SOS"]);

    // One request tells that it is over.
    stand_in.script(|script| script.receipts_down = false);
    let over = "UPDATE push_gates SET state = json_set(state, '$.open_until', 1)
        WHERE provider = 'expo receipts'";
    assert_eq!(change(&hub, over).await, 1);
    eventually("both have theirs", || async {
        change(&hub, ASK).await;
        number(&hub, HANDED).await == 2
    })
    .await;
    assert!(!waits(&receipts).await);
    hub.stop().await;
}
