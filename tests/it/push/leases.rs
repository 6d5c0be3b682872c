//! Leases: who sends a push, for how long nobody else does, and who does once they are silent.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use syncline::config::Config;
use syncline::push::stand_in::{Behaviour, StandIn};

use super::{change, eager, notify, number, publish, register, sent, settled, stand_in, titles};
use crate::support::eventually;
use crate::support::hub::TestHub;
use crate::support::postgres;
use crate::support::process::Process;

const SENDING: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'sending'";

/// Several instances on one database, whose requests may hang for longer than a test takes.
fn patient(config: &mut Config, stand_in: &StandIn, database: &str) {
    eager(config, stand_in);
    config.store.url = database.to_owned();
    config.push.expo.timeout = Duration::from_secs(60);
    config.push.lease = Duration::from_secs(150);
}

/// Waits until an instance has looked after the leases once more.
async fn tended(hub: &TestHub) {
    let tends = || hub.metric("syncline_push_tends_total");
    let before = tends();
    eventually("it has looked", || async { tends() >= before + 2.0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_was_sending_when_it_was_killed_is_sent_by_another() {
    let stand_in = stand_in().await;
    let database = postgres::fresh_database().await;
    let setup = |config: &mut Config| patient(config, &stand_in, &database);
    stand_in.script(|script| script.next.push_back(Behaviour::Hang));
    let dir = tempfile::tempdir().unwrap();
    let mut config = crate::support::hub::config(dir.path());
    setup(&mut config);
    let mut doomed = Process::start(config).await;
    let arm = TestHub::start_with(|config| {
        setup(config);
        config.push.expo.enabled = false;
    });
    let idle = arm.await;
    // The idle one has no provider for it; the other must take it.
    register(&idle, "ana", "phone", json!({})).await;
    let http = reqwest::Client::new();
    let event = json!({
        "project": "p", "kind": "upsert", "fields": {}, "entity": { "type": "task", "id": "1" },
        "notify": notify("ana", "t", "high"),
    });
    idle.stop().await;
    let published = http
        .post(format!("{}/v1/publish", doomed.http()))
        .bearer_auth(crate::support::hub::ADMIN_TOKEN)
        .body(event.to_string());
    assert!(published.send().await.unwrap().status().is_success());
    eventually("it hangs", || async { stand_in.log().hanging == 1 }).await;
    doomed.kill().await;
    let heir = TestHub::start_with(setup).await;
    assert_eq!(number(&heir, SENDING).await, 1);
    assert_eq!(stand_in.sent(), [], "its lease holds");
    change(&heir, "UPDATE push_deliveries SET next_at = 0 WHERE state = 'sending'").await;
    assert_eq!(titles(&sent(&stand_in, 1).await), ["t"]);
    settled(&heir).await;
    assert_eq!(
        number(&heir, "SELECT count(*) FROM push_deliveries WHERE ambiguous = 1 AND attempt = 2")
            .await,
        1
    );
    heir.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_due_times_are_the_databases_whatever_the_instances_clocks_say() {
    for wrong_by in [300_000, -300_000] {
        let stand_in = stand_in().await;
        let database = postgres::fresh_database().await;
        postgres::skew(&database, wrong_by).await;
        let setup = |config: &mut Config| patient(config, &stand_in, &database);
        stand_in.script(|script| script.next.push_back(Behaviour::Hang));
        let holder = TestHub::start_with(setup).await;
        let (_, now) = holder.hub().store.gate("expo").await.unwrap();
        let off = now - syncline::clock::now_ms();
        assert!((off - wrong_by).abs() < 60_000, "the clocks differ: {off}");
        register(&holder, "ana", "phone", json!({})).await;
        publish(&holder, &[notify("ana", "held", "critical")]).await;
        eventually("one is sending", || async { stand_in.log().hanging == 1 }).await;
        let other = TestHub::start_with(setup).await;
        publish(&other, &[notify("ana", "at once", "high")]).await;
        sent(&stand_in, 1).await;
        // By an instance's own clock the lease is long over, and it looks after leases every second.
        tended(&other).await;
        assert_eq!(titles(&stand_in.sent()), ["at once"], "what the other sends is the other's");
        assert_eq!(number(&other, SENDING).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_several_slow_requests_stays_with_one_instance() {
    let stand_in = stand_in().await;
    let database = postgres::fresh_database().await;
    let setup = |config: &mut Config| patient(config, &stand_in, &database);
    let holder = TestHub::start_with(setup).await;
    for n in 0..3 {
        register(&holder, &format!("u{n}"), &format!("d{n}"), json!({})).await;
    }
    // The first request is refused because the tokens are of three projects; then each is asked for alone.
    stand_in.script(|script| {
        script.projects =
            (0..3).map(|n| (super::expo(&format!("d{n}")), format!("@{n}/app"))).collect();
        script.next.push_back(Behaviour::Behave);
        script.next.extend(vec![Behaviour::Hang; 3]);
    });
    let all = json!({ "users": ["u0", "u1", "u2"], "title": "t", "lane": "high" });
    publish(&holder, &[all]).await;
    eventually("the first is slow", || async { stand_in.log().hanging == 1 }).await;
    let other = TestHub::start_with(setup).await;
    for (request, left) in [(1, 3), (2, 2), (3, 1)] {
        eventually("the next is slow", || async { stand_in.log().hanging == request }).await;
        assert_eq!(number(&other, SENDING).await, left, "each is written at once");
        // Each request takes two thirds of a lease.
        change(
            &other,
            "UPDATE push_deliveries SET next_at = next_at - 100000 WHERE state = 'sending'",
        )
        .await;
        tended(&other).await;
        stand_in.release();
    }
    sent(&stand_in, 3).await;
    settled(&holder).await;
    let to: HashSet<_> = stand_in.sent().into_iter().map(|sent| sent.to).collect();
    assert_eq!((to.len(), stand_in.sent().len()), (3, 3), "each once");
    let doubted = "SELECT count(*) FROM push_deliveries WHERE ambiguous = 1 OR attempt > 1";
    assert_eq!(number(&other, doubted).await, 0);
    holder.stop().await;
    other.stop().await;
}
