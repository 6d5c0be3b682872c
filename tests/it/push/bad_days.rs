//! The provider's bad days: nothing is lost, nobody is bothered twice, and operators are told.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::json;
use syncline::config;
use syncline::protocol::notify::Lane;
use syncline::push::expo::Expo;
use syncline::push::provider::{Envelope, Failure, FailureKind, Fate, PushProvider};
use syncline::push::stand_in::{Behaviour, Sent};

use super::{
    change, eager, expo, hub_and_stand_in, notify, number, publish, register, sent, settled,
    stand_in, titles,
};
use crate::support::eventually;
use crate::support::hub::TestHub;
use crate::support::postgres;

const RETRY: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'retry'";
const SENDING: &str = "SELECT count(*) FROM push_deliveries WHERE state = 'sending'";
/// As if every pause had passed.
const PASS: &str = "UPDATE push_deliveries SET next_at = 0 WHERE state = 'retry'";

fn next(behaviours: &[Behaviour]) -> impl FnOnce(&mut syncline::push::stand_in::Script) {
    let behaviours = behaviours.to_vec();
    move |script| script.next.extend(behaviours)
}

/// The notifications that reached each token, repetitions included.
fn nids(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| sent.message["data"]["nid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_provider_that_is_down_loses_nothing_and_the_urgent_come_first() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.expo.breaker = Duration::from_secs(120);
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.down = true);
    for n in 0..6 {
        publish(&hub, &[notify("ana", &format!("normal {n}"), "normal")]).await;
        eventually("it met the provider, or the breaker", || async {
            let opened = hub.metric("syncline_push_breakers_opened_total");
            opened > 0.0 || number(&hub, RETRY).await > n
        })
        .await;
        change(&hub, PASS).await;
    }
    eventually("the breaker opens", || async {
        hub.metric("syncline_push_breakers_opened_total") == 1.0
    })
    .await;
    publish(&hub, &[notify("ana", "urgent", "critical"), notify("ana", "soon", "high")]).await;
    eventually("all wait", || async {
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state IN ('queued', 'retry')")
            .await
            == 8
    })
    .await;
    assert_eq!(number(&hub, SENDING).await, 0);
    let before = stand_in.log().requests;
    // All of them are due, for both senders, and the senders' own way past the breaker says no.
    change(&hub, PASS).await;
    assert_eq!(claimed(&hub).await, 0, "an open breaker lets nothing through");
    assert_eq!(stand_in.log().requests, before, "an open breaker lets nothing through");

    // Ten minutes later one request goes as a probe, and no second one after it.
    ten_minutes_pass(&hub).await;
    eventually("the probe fails", || async {
        let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
        stand_in.log().requests > before
            && gate.reopens(now).is_some()
            && number(&hub, SENDING).await == 0
    })
    .await;
    change(&hub, PASS).await;
    assert_eq!(claimed(&hub).await, 0);
    assert_eq!(stand_in.log().requests, before + 1, "one probe");

    stand_in.script(|script| script.down = false);
    ten_minutes_pass(&hub).await;
    let sent = sent(&stand_in, 8).await;
    settled(&hub).await;
    assert!(!hub.hub().store.gate("expo").await.unwrap().0.is_open(), "closed by itself");
    assert_eq!(nids(&sent).iter().collect::<HashSet<_>>().len(), 8, "all of them, each once");
    let order = titles(&sent);
    assert_eq!(order[0], "urgent", "{order:?}");
    assert_eq!(order[1], "soon", "{order:?}");
    hub.stop().await;
}

/// What a sender would get to send now.
async fn claimed(hub: &TestHub) -> usize {
    let store = &hub.hub().store;
    let gate = hub.hub().push.providers[0].manners().gate;
    store.claim_deliveries("expo", &Lane::ALL, gate, 60_000, "test").await.unwrap().len()
}

/// Makes everything that waits for a time ten minutes older: the breaker, pauses, and how long a push is of use.
async fn ten_minutes_pass(hub: &TestHub) {
    let gate = "UPDATE push_gates SET state = json_set(state,
        '$.at', json_extract(state, '$.at') - 600000,
        '$.window_at', json_extract(state, '$.window_at') - 600000,
        '$.open_until', json_extract(state, '$.open_until') - 600000) WHERE provider = 'expo'";
    let deliveries =
        "UPDATE push_deliveries SET next_at = next_at - 600000, expires_at = expires_at - 600000";
    assert!(change(hub, deliveries).await > 0 && change(hub, gate).await == 1);
}

#[tokio::test]
async fn a_breaker_tries_again_by_itself() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    stand_in.script(|script| script.down = true);
    publish(&hub, &vec![notify("ana", "t", "critical"); 3]).await;
    eventually("the breaker opens", || async {
        change(&hub, PASS).await;
        hub.metric("syncline_push_breakers_opened_total") == 1.0
    })
    .await;
    stand_in.script(|script| script.down = false);
    eventually("all get through", || async {
        change(&hub, PASS).await;
        stand_in.sent().len() == 3
    })
    .await;
    assert_eq!(number(&hub, "SELECT min(attempt) FROM push_deliveries").await.min(2), 2);
    hub.stop().await;
}

#[tokio::test]
async fn a_request_to_slow_down_is_obeyed_and_costs_no_attempt() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    let slower = |retry_after| Behaviour::Status { status: 429, retry_after, dated: false };
    stand_in.script(next(&[slower(Some(1)), slower(None), Behaviour::ErrorsWithOk]));
    publish(&hub, &[notify("ana", "t", "high")]).await;
    eventually("told to wait a second", || async { number(&hub, RETRY).await == 1 }).await;
    let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
    let waits = gate.reopens(now).unwrap_or(now) - now;
    assert!((1..=1000).contains(&waits), "{waits} ms");
    let sent = sent(&stand_in, 1).await;
    settled(&hub).await;
    assert_eq!(sent.len(), 1);
    assert_eq!(stand_in.log().requests - stand_in.log().receipts_asked.min(1), 4);
    assert_eq!(number(&hub, "SELECT attempt FROM push_deliveries").await, 1);
    assert_eq!(hub.metric("syncline_push_breakers_opened_total"), 0.0);
    hub.stop().await;
}

#[tokio::test]
async fn a_request_to_slow_down_stops_what_is_left_of_its_claim() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    for n in 0..3 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
    }
    // The first is refused because the tokens are of three projects; then each is asked for alone.
    stand_in.script(|script| {
        script.projects = (0..3).map(|n| (expo(&format!("d{n}")), format!("@{n}/app"))).collect();
        let slower = Behaviour::Status { status: 429, retry_after: Some(60), dated: false };
        script.next.extend([Behaviour::Behave, slower]);
    });
    let all = json!({ "users": ["u0", "u1", "u2"], "title": "t", "lane": "high" });
    publish(&hub, &[all]).await;
    eventually("all wait", || async { number(&hub, RETRY).await == 3 }).await;
    assert_eq!((stand_in.log().requests, stand_in.sent().len()), (2, 0));
    assert_eq!(number(&hub, "SELECT sum(attempt) FROM push_deliveries").await, 0, "at no cost");
    hub.hub().store.reopen_gate("expo").await.unwrap();
    sent(&stand_in, 3).await;
    settled(&hub).await;
    assert_eq!(stand_in.sent().len(), 3, "each once");
    hub.stop().await;
}

#[tokio::test]
async fn a_broken_provider_that_says_how_long_is_given_that_time() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    let broken = |after, dated| Behaviour::Status { status: 503, retry_after: Some(after), dated };
    let waits = [(120, false, 120_000), (200, true, 200_000), (1_000_000, false, 300_000)];
    for (tries, (after, dated, held_for)) in waits.into_iter().enumerate() {
        stand_in.script(next(&[broken(after, dated)]));
        if tries == 0 {
            publish(&hub, &[notify("ana", "t", "high")]).await;
        } else {
            hub.hub().store.reopen_gate("expo").await.unwrap();
        }
        let attempts = "SELECT attempt FROM push_deliveries WHERE state = 'retry'";
        eventually("it is told to wait", || async {
            stand_in.log().refused == tries + 1 && number(&hub, RETRY).await == 1
        })
        .await;
        assert_eq!(number(&hub, attempts).await, tries as i64 + 1, "it was an attempt");
        let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
        let waits = gate.reopens(now).unwrap_or(now) - now;
        assert!((held_for - 60_000..=held_for).contains(&waits), "everybody waits: {waits} ms");
        let itself = number(&hub, "SELECT next_at - sent_at FROM push_deliveries").await;
        assert!(itself > held_for - 60_000, "{itself} ms");
    }
    hub.hub().store.reopen_gate("expo").await.unwrap();
    sent(&stand_in, 1).await;
    hub.stop().await;
}

#[tokio::test]
async fn what_was_accepted_and_not_answered_comes_again_under_the_same_name() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.drop_ambiguous = vec!["code".into()];
    })
    .await;
    register(&hub, "ana", "phone", json!({})).await;
    for behaviour in [Behaviour::AcceptThen504, Behaviour::AcceptThenReset, Behaviour::WrongCount] {
        let before = stand_in.sent().len();
        stand_in.script(next(std::slice::from_ref(&behaviour)));
        publish(&hub, &[notify("ana", "again", "high")]).await;
        eventually("it comes again", || async {
            change(&hub, PASS).await;
            stand_in.sent().len() == before + 2
        })
        .await;
        settled(&hub).await;
        let two = &stand_in.sent()[before..];
        for field in ["collapseId", "tag", "data"] {
            assert_eq!(two[0].message[field], two[1].message[field], "{behaviour:?}: {field}");
        }
        assert_eq!(stand_in.sent().len(), before + 2, "and no third time");
    }
    assert_eq!(number(&hub, "SELECT count(*) FROM push_deliveries WHERE ambiguous = 1").await, 3);

    // Of some things nobody should get two.
    let before = stand_in.sent().len();
    stand_in.script(next(&[Behaviour::AcceptThen504]));
    let mut once = notify("ana", "once", "high");
    once["category"] = json!("code");
    publish(&hub, &[once]).await;
    settled(&hub).await;
    assert_eq!(stand_in.sent().len(), before + 1);
    let failed =
        "SELECT count(*) FROM push_deliveries WHERE state = 'failed' AND error = 'ambiguous'";
    assert_eq!(number(&hub, failed).await, 1);
    hub.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_tried_again() {
    let (hub, stand_in) = hub_and_stand_in(|_| {}).await;
    register(&hub, "ana", "phone", json!({})).await;
    let page = |status| Behaviour::Status { status, retry_after: None, dated: false };
    stand_in.script(next(&[Behaviour::NotJson, page(500), page(404)]));
    publish(&hub, &[notify("ana", "t", "critical")]).await;
    eventually("it gets through", || async {
        change(&hub, PASS).await;
        stand_in.sent().len() == 1
    })
    .await;
    settled(&hub).await;
    assert_eq!(number(&hub, "SELECT attempt FROM push_deliveries").await, 4);
    hub.stop().await;
}

#[tokio::test]
async fn a_token_of_another_project_and_a_spoilt_message_stop_nobody_else() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.linger = Duration::from_millis(300);
    })
    .await;
    for n in 0..6 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
    }
    stand_in.script(|script| {
        script.projects.insert(expo("d3"), "@other/app".into());
        script.invalid.push(expo("d4"));
    });
    let all: Vec<_> = (0..6).map(|n| notify(&format!("u{n}"), "t", "normal")).collect();
    publish(&hub, &all).await;
    let sent = sent(&stand_in, 5).await;
    settled(&hub).await;
    let to: HashSet<_> = sent.iter().map(|sent| sent.to.clone()).collect();
    assert_eq!(to, [0, 1, 2, 3, 5].map(|n| expo(&format!("d{n}"))).into());
    assert_eq!(sent.len(), stand_in.sent().len(), "each once");
    assert_eq!(
        number(&hub, "SELECT count(*) FROM push_deliveries WHERE state = 'failed'").await,
        1
    );
    assert_eq!(hub.metric("syncline_push_breakers_opened_total"), 0.0, "the provider is fine");

    // Learnt: the next time they go apart from the start.
    let mixed = stand_in.log().mixed;
    publish(&hub, &all[2..4]).await;
    super::sent(&stand_in, 7).await;
    assert_eq!(stand_in.log().mixed, mixed);
    hub.stop().await;
}

#[tokio::test]
async fn projects_that_the_provider_does_not_tell_apart_are_halved() {
    let (hub, stand_in) = hub_and_stand_in(|config| {
        config.push.linger = Duration::from_millis(300);
    })
    .await;
    for n in 0..5 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
    }
    stand_in.script(|script| {
        for (n, project) in [(2, "@b/app"), (3, "@c/app"), (4, "@c/app")] {
            script.projects.insert(expo(&format!("d{n}")), project.into());
            script.unnamed.push(expo(&format!("d{n}")));
        }
    });
    let all: Vec<_> = (0..5).map(|n| notify(&format!("u{n}"), "t", "normal")).collect();
    publish(&hub, &all).await;
    let sent = sent(&stand_in, 5).await;
    settled(&hub).await;
    let to: HashSet<_> = sent.iter().map(|sent| sent.to.clone()).collect();
    assert_eq!((to.len(), stand_in.sent().len()), (5, 5), "all of them, each once");
    let (gate, now) = hub.hub().store.gate("expo").await.unwrap();
    assert!(
        !gate.credentials && gate.reopens(now).is_none(),
        "nothing is wrong with the credentials"
    );
    assert_eq!(hub.metric("syncline_push_breakers_opened_total"), 0.0);
    hub.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_big_whatever_is_cut_stops_nobody_else() {
    let stand_in = stand_in().await;
    let config = config::Expo { base_url: stand_in.url(), ..config::Expo::default() };
    let provider = Expo::new(&config).unwrap();
    let envelope = |name: &str, bytes: usize| {
        let message = json!({
            "nid": name, "user": "ana", "project": "p", "seq": 1, "lane": "high", "title": "t",
            "body": "b", "badge": 1, "collapse": name, "report": "", "data": { "x": "d".repeat(bytes) },
        });
        let message = serde_json::from_value(message).unwrap();
        Envelope { token: expo(name), ttl: Duration::from_secs(60), message }
    };
    let fates = provider.send(&[envelope("a", 10), envelope("b", 5000), envelope("c", 10)]).await;
    let too_big = Failure { kind: FailureKind::Permanent, code: "MessageTooBig".into() };
    match &fates.unwrap()[..] {
        [Fate::Accepted(_), Fate::Refused(failure), Fate::Accepted(_)] => {
            assert_eq!(*failure, too_big);
        }
        other => panic!("{other:?}"),
    }
    let to: Vec<_> = stand_in.sent().into_iter().map(|sent| sent.to).collect();
    assert_eq!(to, [expo("a"), expo("c")]);
    let requests = stand_in.log().requests;
    assert_eq!(provider.send(&[envelope("b", 5000)]).await, Ok(vec![Fate::Refused(too_big)]));
    assert_eq!(stand_in.log().requests, requests, "there was nothing to ask");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_database_loses_nothing() {
    let server = postgres::Server::start().await;
    let stand_in = stand_in().await;
    let hub = TestHub::start_with(|config| {
        eager(config, &stand_in);
        config.store.url = server.url();
        config.push.expo.rate = 400;
    })
    .await;
    let mut all = Vec::new();
    for n in 0..20 {
        register(&hub, &format!("u{n}"), &format!("d{n}"), json!({})).await;
        all.extend((0..20).map(|_| notify(&format!("u{n}"), "t", "high")));
    }
    publish(&hub, &all).await;
    sent(&stand_in, 50).await;
    let server = server.restart().await;
    let distinct = || nids(&stand_in.sent()).into_iter().collect::<HashSet<_>>().len();
    eventually("all of them", || async {
        // Leases of what was under way end; nobody waits for that here.
        let url = server.url();
        if let Ok(mut db) = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await {
            let over = "UPDATE push_deliveries SET next_at = 0 WHERE state IN ('sending', 'retry') AND attempt > 0";
            let _later = sqlx::query(over).execute(&mut db).await;
        }
        distinct() == 400
    })
    .await;
    let mut times: HashMap<String, usize> = HashMap::new();
    nids(&stand_in.sent()).into_iter().for_each(|nid| *times.entry(nid).or_default() += 1);
    eprintln!("sent twice: {}", times.values().filter(|n| **n > 1).count());
    settled(&hub).await;
    hub.stop().await;
}
