//! Workers: critical pushes have their own, and receipts are asked for when they may be there.

use std::time::Duration;

use serde_json::json;
use syncline::push::stand_in::Behaviour;

use super::{change, hub_and_stand_in, notify, number, publish, register, sent, titles};
use crate::support::eventually;

#[tokio::test]
async fn critical_ones_go_out_while_every_other_request_hangs() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.in_flight = 3;
        config.push.expo.timeout = Duration::from_secs(60);
        config.push.lease = Duration::from_secs(150);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.next.extend([Behaviour::Hang, Behaviour::Hang]));
    for hanging in 1..=2 {
        publish(&hub, &[notify("ana", "hangs", "high")]).await;
        eventually("its request hangs", || async { stand_in.log().hanging == hanging }).await;
    }
    publish(&hub, &vec![notify("ana", "waits", "high"); 500]).await;
    let queued = "SELECT count(*) FROM push_deliveries WHERE state = 'queued'";
    eventually("the queue is full", || async { number(&hub, queued).await == 500 }).await;
    publish(&hub, &[notify("ana", "SOS", "critical")]).await;
    assert_eq!(titles(&sent(&stand_in, 1).await), ["SOS"]);
    assert_eq!(number(&hub, queued).await, 500, "all the others wait");
    stand_in.release();
    stand_in.release();
    sent(&stand_in, 503).await;
    hub.stop().await;
}

#[tokio::test]
async fn receipts_are_asked_for_ever_more_seldom_and_then_no_more() {
    const FIRST: i64 = 900_000;
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.receipt_after = Duration::from_millis(FIRST.unsigned_abs());
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| {
        script.receipts.insert(super::expo("phone"), "missing".into());
    });
    publish(&hub, &[notify("ana", "t", "high")]).await;
    let waits = "SELECT count(*) FROM push_deliveries WHERE state = 'accepted'";
    eventually("accepted", || async { number(&hub, waits).await == 1 }).await;
    assert_eq!(number(&hub, "SELECT next_at - accepted_at FROM push_deliveries").await, FIRST);
    // 15 min, 30 min, 1 h, 6 h and 23 h after it was accepted, if each is asked when it is due.
    for (asked, pause) in [(1, FIRST), (2, 2 * FIRST), (3, 20 * FIRST), (4, 68 * FIRST)] {
        // As if the pause were over: what is left of it is the next one.
        change(&hub, "UPDATE push_deliveries SET next_at = 0").await;
        eventually("asked", || async {
            stand_in.log().receipts_asked == asked
                && number(&hub, "SELECT asked FROM push_deliveries").await == asked as i64
        })
        .await;
        let now = hub.hub().store.now_ms().await.unwrap();
        let left = number(&hub, "SELECT next_at FROM push_deliveries").await - now;
        assert!((pause - 60_000..=pause).contains(&left), "{asked}: {left} ms");
    }
    change(&hub, "UPDATE push_deliveries SET next_at = 0").await;
    let missing = "SELECT count(*) FROM push_deliveries WHERE state = 'missing'";
    eventually("given up", || async { number(&hub, missing).await == 1 }).await;
    assert_eq!(stand_in.log().receipts_asked, 5);
    hub.stop().await;
}
