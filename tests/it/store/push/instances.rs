//! Pushes between instances: who holds one, who is here, and whose clock counts.

use std::sync::Mutex;
use std::time::Duration;

use sqlx::Connection;
use syncline::config;
use syncline::id::InstanceId;
use syncline::store::push::{Decided, View};
use syncline::sync::retention::Retention;
use syncline::telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{SEND, SETTINGS, arm, due, phone, to_device, user};
use crate::support::eventually;
use crate::support::site::Site;

on_both_engines!(
    a_lease_is_renewed_by_who_holds_it,
    what_a_silent_worker_held_is_counted_once,
    a_cap_is_about_the_last_hour,
);

async fn a_lease_is_renewed_by_who_holds_it(site: Site) {
    let store = site.open().await;
    let device = store.register_device(&user("ben"), &phone("phone", "t1")).await.unwrap();
    store.begin_gate("expo").await.unwrap();
    arm(&store, "p", 2).await;
    store.dispatch(9, &to_device(device)).await.unwrap();
    let claim =
        async |lease| store.claim_deliveries("expo", &SEND, SETTINGS, lease, "w").await.unwrap();
    let held: Vec<_> = claim(0).await.iter().map(|held| (held.id, held.fence)).collect();
    let renewed = store.renew_deliveries(&held[..1], 60_000).await.unwrap();
    assert_eq!((renewed.len(), renewed[0].id), (1, held[0].0));
    assert!(renewed[0].ttl > 0, "it is of use still");
    assert_eq!(renewed[0].token.as_deref(), Some("t1"));
    store.register_device(&user("ben"), &phone("phone", "t2")).await.unwrap();
    let renewed = store.renew_deliveries(&held[..1], 60_000).await.unwrap();
    assert_eq!(
        renewed[0].token.as_deref(),
        Some("t2"),
        "what is sent next goes to the token of now"
    );
    assert_eq!(store.reap_deliveries(&[]).await.unwrap().returned, 1, "only the other one is lost");
    assert_eq!(claim(60_000).await.len(), 1, "and goes to another");
    let renewed = store.renew_deliveries(&held, 60_000).await.unwrap();
    assert_eq!(renewed.len(), 1, "what is another's is not renewed");
}

async fn what_a_silent_worker_held_is_counted_once(site: Site) {
    let store = site.open().await;
    let device = store.register_device(&user("ben"), &phone("phone", "t1")).await.unwrap();
    store.begin_gate("expo").await.unwrap();
    arm(&store, "p", 3).await;
    let of_a_kind = |view: &View| {
        let mut decided = to_device(device)(view);
        decided.deliveries[0].category = Some("code".into());
        decided.deliveries[2].expires_at = view.now;
        decided
    };
    store.dispatch(9, &of_a_kind).await.unwrap();
    let held = store.claim_deliveries("expo", &SEND, SETTINGS, 0, "w").await.unwrap();
    assert_eq!(held.len(), 2, "what is too late is not sent");
    let reap = async || store.reap_deliveries(&["code".to_owned()]).await.unwrap();
    let reaped = reap().await;
    assert_eq!(reaped.returned, 2);
    let ended: Vec<_> = reaped.ended.iter().map(|(_, event, _)| event.as_str()).collect();
    assert_eq!(ended, ["failed", "expired"]);
    assert_eq!(reap().await.ended, [], "once");
    let stats = store.push_stats(3_600_000, "p").await.unwrap();
    let stats: Vec<_> =
        stats.iter().map(|s| (s.event.as_str(), s.reason.as_str(), s.count)).collect();
    assert_eq!(stats, [("expired", "ttl", 1), ("failed", "ambiguous", 1)]);
}

async fn a_cap_is_about_the_last_hour(site: Site) {
    let store = site.open().await;
    store.begin_gate("expo").await.unwrap();
    let (_, now) = store.gate("expo").await.unwrap();
    for (minutes_ago, count) in [(0, 1), (58, 10), (60, 100), (90, 1000)] {
        let minute = now / 60_000 - minutes_ago;
        site.run(&format!("INSERT INTO push_minutes VALUES ('ben', {minute}, {count})")).await;
    }
    arm(&store, "p", 1).await;
    let (view, _) = store.dispatch(9, &|_: &View| Decided::default()).await.unwrap();
    assert_eq!(view.counts["ben"], 11);
    let counted = |view: &View| Decided {
        counted: view.due.iter().map(|due| due.user_id.clone()).collect(),
        ..Decided::default()
    };
    store.dispatch(9, &counted).await.unwrap();
    let retention = Retention::new(
        store.clone(),
        "test".into(),
        config::Retention::default(),
        Duration::ZERO,
        Metrics::new(),
    );
    retention.purge(&CancellationToken::new()).await.unwrap().unwrap();
    let (view, _) = store.dispatch(9, &|_: &View| Decided::default()).await.unwrap();
    assert_eq!(view.counts["ben"], 12);
}

/// Two instances hold two pushes of one person: the second decides knowing what the first did.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_sends_counts_before_another_decides() {
    let site = Site::postgres().await;
    let (one, two) = (site.open().await, site.open().await);
    arm(&one, "p", 2).await;
    let (began, begins) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (began, released) = (Mutex::new(began), Mutex::new(released));
    let first = tokio::spawn(async move {
        let decide = |view: &View| {
            began.lock().unwrap().send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            Decided { counted: vec![view.due[0].user_id.clone()], ..Decided::default() }
        };
        one.dispatch(1, &decide).await.unwrap();
    });
    tokio::task::block_in_place(|| begins.recv().unwrap());
    let second = tokio::spawn(async move {
        two.dispatch(1, &|_: &View| Decided::default()).await.unwrap().0.counts
    });
    let db = sqlx::PgPool::connect(&site.config.url).await.unwrap();
    eventually("the second waits, or has not waited", async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        second.is_finished()
            || sqlx::query_scalar::<_, i64>(waiting).fetch_one(&db).await.unwrap() > 0
    })
    .await;
    release.send(()).unwrap();
    first.await.unwrap();
    assert_eq!(second.await.unwrap()["ben"], 1);
}

#[tokio::test]
async fn who_is_just_saying_that_it_lives_keeps_its_users() {
    let site = Site::postgres().await;
    let store = site.open().await;
    let (late, other) = (InstanceId(Uuid::new_v4()), InstanceId(Uuid::new_v4()));
    store.beat(late, 60_000).await.unwrap();
    store.live(late, &[user("ben")], &[]).await.unwrap();
    site.run("UPDATE live_instances SET until = 0").await;
    // Its next beat is on its way while another looks who is silent.
    let mut db = sqlx::PgConnection::connect(&site.config.url).await.unwrap();
    let mut beat = db.begin().await.unwrap();
    let lives = "UPDATE live_instances SET until = 4000000000000";
    sqlx::query(lives).execute(&mut *beat).await.unwrap();
    let looks = tokio::spawn({
        let store = store.clone();
        async move { store.beat(other, 60_000).await.unwrap() }
    });
    eventually("the other waits for nobody", || async { looks.is_finished() }).await;
    beat.commit().await.unwrap();
    arm(&store, "p", 1).await;
    assert_eq!(due(&store).await.len(), 0, "ben is here, and is waited for");
}

#[tokio::test]
async fn notifications_are_numbered_by_the_databases_clock() {
    for wrong_by in [300_000, -300_000] {
        let site = Site::postgres().await;
        crate::support::postgres::skew(&site.config.url, wrong_by).await;
        let store = site.open().await;
        store.begin_gate("expo").await.unwrap();
        arm(&store, "p", 3).await;
        let due = due(&store).await;
        let (_, now) = store.gate("expo").await.unwrap();
        let nids: Vec<Uuid> = due.iter().map(|due| due.nid.parse().unwrap()).collect();
        assert!(nids.is_sorted(), "in the order of the log");
        for nid in nids {
            let (seconds, _) = nid.get_timestamp().unwrap().to_unix();
            let age = now / 1000 - i64::try_from(seconds).unwrap();
            assert!((0..60).contains(&age), "{age} s old, with a clock that is {wrong_by} ms off");
        }
    }
}
