//! An instance that stops finishes what it is sending, and begins nothing more: others do.

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use sqlx::Connection;
use syncline::push::stand_in::Behaviour;
use tempfile::TempDir;

use super::{expo, hub_and_stand_in, notify, number, publish, register};
use crate::support::eventually;
use crate::support::hub::TestHub;

const QUEUED: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'queued'";
const SENDING: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'sending'";

/// Stops a hub while a request hangs, which is answered only once the hub is stopping.
async fn stop_while_sending(hub: TestHub, release: impl FnOnce()) -> TempDir {
    let mut stopping = pin!(hub.stop());
    assert!(stopping.as_mut().now_or_never().is_none(), "the request hangs");
    release();
    stopping.await
}

/// One number from what a hub left behind.
async fn left(dir: &TempDir, sql: &'static str) -> i64 {
    let url = format!("sqlite:{}", dir.path().join("hub.db").display());
    let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut db).await.unwrap()
}

#[tokio::test]
async fn a_sender_that_stops_claims_nothing_more() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.in_flight = 2;
        config.push.expo.timeout = Duration::from_secs(60);
        config.push.lease = Duration::from_secs(150);
    })
    .await;
    for n in 0..20 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
    }
    stand_in.script(|script| script.next.push_back(Behaviour::Hang));
    let all: Vec<_> = (0..200).map(|n| notify(&format!("u{}", n % 20), "t", "high")).collect();
    publish(&hub, &all).await;
    eventually("one request hangs, the others wait", || async {
        stand_in.log().hanging == 1
            && number(&hub, QUEUED).await + number(&hub, SENDING).await == 200
    })
    .await;
    let sending = number(&hub, SENDING).await;
    assert!((1..=100).contains(&sending), "{sending}");
    let dir = stop_while_sending(hub, || stand_in.release()).await;
    assert_eq!(stand_in.sent().len() as i64, sending, "what it was sending, and no more");
    assert_eq!((left(&dir, QUEUED).await, left(&dir, SENDING).await), (200 - sending, 0));
}

#[tokio::test]
async fn what_a_sender_has_claimed_and_not_sent_is_given_back() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.linger = Duration::from_millis(300);
        config.push.expo.timeout = Duration::from_secs(60);
        config.push.lease = Duration::from_secs(150);
    })
    .await;
    // The first request is refused because the tokens are of three projects; then each is asked for alone.
    for n in 0..3 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
        let project = format!("@{n}/app");
        stand_in.script(|script| {
            script.projects.insert(expo(&format!("d{n}")), project);
        });
    }
    stand_in.script(|script| script.next.extend([Behaviour::Behave, Behaviour::Hang]));
    publish(&hub, &[json!({ "users": ["u0", "u1", "u2"], "title": "t", "lane": "high" })]).await;
    eventually("the first is slow", || async { stand_in.log().hanging == 1 }).await;
    assert_eq!(number(&hub, SENDING).await, 3);
    let dir = stop_while_sending(hub, || stand_in.release()).await;
    assert_eq!(stand_in.sent().len(), 1);
    let back = "SELECT count(*) FROM push_deliveries
        WHERE state = 'retry' AND ambiguous = 0 AND attempt = 0";
    assert_eq!(left(&dir, back).await, 2, "at once, and at the cost of no attempt");
}

#[tokio::test]
async fn a_dispatcher_that_stops_decides_on_no_further_batch() {
    const COUNT: i64 = 3000;
    let (hub, _stand_in) = hub_and_stand_in(|_| {}).await;
    let mut later = notify("ana", "t", "normal");
    later["send_at"] = json!(4_000_000_000_000_i64);
    for _ in 0..COUNT / 100 {
        publish(&hub, &vec![later.clone(); 100]).await;
    }
    let scheduled = "SELECT count(*) FROM push_intents WHERE state = 'scheduled'";
    assert_eq!(number(&hub, scheduled).await, COUNT);
    let dir = hub.stop().await;
    let url = format!("sqlite:{}", dir.path().join("hub.db").display());
    let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE push_intents SET not_before = 0").execute(&mut db).await.unwrap();
    // All of it is due when the next instance starts, which is to stop at once.
    let next = TestHub::start_with(|config| config.store.url = url).await;
    next.stop().await;
    assert!(left(&dir, scheduled).await > 0, "the rest is another instance's");
}
