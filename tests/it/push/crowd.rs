//! Many pushes: two instances share one queue, and a burst drains at the provider's rate.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use syncline::config::Config;

use super::{eager, notify, number, publish, register, sent, settled, stand_in};
use crate::support::eventually;
use crate::support::hub::TestHub;
use crate::support::postgres;

/// Publishes `count` notifications, in events of the size an ordinary backend sends.
async fn flood(hub: &TestHub, users: usize, count: usize) {
    let mut left = count;
    while left > 0 {
        let now = left.min(20 * users);
        // Events of up to 20 recipients, so that the burst is about pushes and not about the log.
        let events: Vec<_> = (0..now.div_ceil(users))
            .map(|n| {
                let some: Vec<_> =
                    (0..users.min(now - n * users)).map(|u| format!("u{u}")).collect();
                json!({ "users": some, "title": "t", "lane": "normal", "ttl": 86_400 })
            })
            .collect();
        publish(hub, &events).await;
        left -= now;
    }
}

async fn devices(hub: &TestHub, users: usize) {
    for n in 0..users {
        register(hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_a_queue_and_a_rate_and_send_nothing_twice() {
    const RATE: u32 = 500;
    let stand_in = stand_in().await;
    let database = postgres::fresh_database().await;
    let setup = |config: &mut Config| {
        eager(config, &stand_in);
        config.store.url = database.clone();
        config.push.expo.rate = RATE;
    };
    // The provider's own limit is a little higher; a second's worth may come at once.
    stand_in.script(|script| script.rate = Some(600));
    let hubs = [TestHub::start_with(setup).await, TestHub::start_with(setup).await];
    devices(&hubs[0], 40).await;
    tokio::join!(flood(&hubs[0], 40, 1200), flood(&hubs[1], 40, 1200));
    let sent = sent(&stand_in, 2400).await;
    for hub in &hubs {
        settled(hub).await;
    }
    let key = |s: &syncline::push::stand_in::Sent| s.message["data"]["nid"].to_string();
    assert_eq!(sent.iter().map(key).collect::<HashSet<_>>().len(), 2400);
    assert_eq!(stand_in.sent().len(), 2400, "nothing twice");
    let owners = "SELECT count(DISTINCT owner) FROM push_deliveries";
    assert_eq!(number(&hubs[0], owners).await, 2, "both worked");
    let log = stand_in.log();
    assert_eq!((log.over_rate, log.too_large, log.large_uncompressed), (0, 0, 0), "{log:?}");
    assert!(log.compressed > 0);
    for hub in hubs {
        hub.stop().await;
    }
}

/// 100 000 pushes with `SYNCLINE_TEST_FULL=1`, fewer in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_drains_at_the_rate_and_critical_ones_overtake_it() {
    let full = std::env::var("SYNCLINE_TEST_FULL").is_ok_and(|full| full == "1");
    let (count, rate) = if full { (100_000, 5000) } else { (3000, 1000) };
    let stand_in = stand_in().await;
    let database = postgres::fresh_database().await;
    let hub = TestHub::start_with(|config| {
        eager(config, &stand_in);
        config.store.url = database;
        config.push.expo.rate = rate;
        // Receipts are another story.
        config.push.expo.receipt_after = Duration::from_secs(3600);
    })
    .await;
    devices(&hub, 50).await;
    let memory = syncline::telemetry::resident_memory().unwrap();
    flood(&hub, 50, count).await;
    eventually("it drains", || async { stand_in.log().accepted > count / 20 }).await;
    let urgent: Vec<_> = (0..5).map(|n| notify(&format!("u{n}"), "urgent", "critical")).collect();
    publish(&hub, &urgent).await;
    let arrived =
        async || stand_in.sent().iter().filter(|sent| sent.message["title"] == "urgent").count();
    eventually("the urgent ones", || async { arrived().await == 5 }).await;
    let last = stand_in.sent().iter().rposition(|s| s.message["title"] == "urgent").unwrap();
    assert!(last < count * 9 / 10, "they overtook at most {} others", count - last);
    let deadline = std::time::Instant::now() + Duration::from_secs(if full { 300 } else { 20 });
    while stand_in.log().accepted < count + 5 {
        assert!(std::time::Instant::now() < deadline, "{:?}", stand_in.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    settled(&hub).await;
    assert_eq!(stand_in.log().accepted, count + 5);
    // The stand-in itself remembers every message, about a kilobyte each.
    let grown = syncline::telemetry::resident_memory().unwrap().saturating_sub(memory);
    let allowed = (64 << 20) + 4096 * count as u64;
    assert!(grown < allowed, "{} MB for {count} pushes", grown >> 20);
    hub.stop().await;
}
