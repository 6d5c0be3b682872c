//! A reader that stops reading costs a bounded amount of memory, and nobody else anything; nor do writes that
//! the store does not take.

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tokio::io::AsyncWriteExt;
use tokio::time::{Duration, timeout};

use crate::support::client::{Client, create, seqs, update};
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::raw::{Raw, text};

const OUTBOX: usize = 64 << 10;
/// More rounds than the outbox and what the kernel is told to keep unsent can hold back; a send buffer left
/// to itself holds back several times as many.
const MOST_ROUNDS: u64 = 40;

/// How many never read; a full test takes ten times as many.
fn stalled_count() -> usize {
    if std::env::var_os("SYNCLINE_TEST_FULL").is_some() { 1000 } else { 100 }
}

fn rooms() -> Value {
    json!([{ "room": "project:p", "since": 0 }, { "room": "room:p:noise" }])
}

#[tokio::test]
async fn stalled_readers_are_sent_away_and_resume_without_a_hole() {
    let hub = TestHub::start_with(|config| {
        config.limits.outbox_bytes = OUTBOX;
        config.limits.catch_up_bytes = OUTBOX / 2;
        config.limits.connections_per_user = usize::MAX;
    })
    .await;
    let count = stalled_count();
    let editor = token("ana", &json!({ "p": "editor" }));
    let mut healthy = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(&hub.ws(), &editor).await;
        client.subscribe(rooms()).await;
        healthy.push(client);
    }
    let mut stalled = Vec::new();
    for _ in 0..count {
        let mut raw = Raw::open_narrow(&hub.ws()).await;
        raw.upgrade(&editor).await;
        raw.send(text(&json!({ "type": "subscribe", "rooms": rooms() }))).await;
        raw.expect("subscribed").await;
        stalled.push(raw);
    }

    let mut writer = Client::connect(&hub.ws(), &editor).await;
    let filler = "x".repeat(16 << 10);
    let closed = || hub.metric("syncline_connections_closed_total{reason=\"slow_consumer\"}");
    let waiting = || hub.metric("syncline_outbox_bytes");
    let mut head = 0;
    while (hub.metric("syncline_subscriptions") > 6.0 || head < 20) && head < MOST_ROUNDS {
        head += 1;
        let op = if head == 1 {
            create("1", "t1", &json!({ "x": format!("{head} {filler}"), "n": head }))
        } else {
            update(
                &format!("{head}"),
                "t1",
                head - 1,
                &json!({ "x": format!("{head} {filler}"), "n": head }),
            )
        };
        writer.write("p", json!([op])).await;
        let noise = json!({ "type": "broadcast", "room": "room:p:noise", "event": "noise",
            "data": { "n": head, "x": filler } });
        assert_eq!(writer.ask(noise).await["type"], "ok");
        for client in &mut healthy {
            let change = client.expect("change").await;
            assert_eq!((&change["seq"], &change["fields"]["n"]), (&json!(head), &json!(head)));
            assert_eq!(client.expect("event").await["data"]["n"], head);
        }
        let bound = (count * OUTBOX) as f64;
        assert!(waiting() <= bound, "{} of {bound} bytes wait", waiting());
    }
    assert!(head < MOST_ROUNDS, "the stalled were never sent away");

    // They read again: what they were sent is whole and in order, and then they are told why it ended.
    let ends = join_all(stalled.iter_mut().map(Raw::end)).await;
    let mut cursors = Vec::new();
    for (frames, code) in ends {
        assert_eq!(code, Some(4001));
        let seqs = seqs(&frames);
        let last = seqs.last().copied().unwrap_or(0);
        assert_eq!(seqs, (1..=last).collect::<Vec<_>>());
        assert!(last < head);
        cursors.push(last);
    }
    eventually("all were counted", || async { closed() == count as f64 }).await;
    let dropped = hub.metric("syncline_drops_total{reason=\"outbox\"}");
    assert_eq!(dropped, count as f64, "each was counted where operators look");
    eventually("nothing waits any more", || async { waiting() == 0.0 }).await;

    for last in cursors {
        let mut again = Client::connect(&hub.ws(), &editor).await;
        let rooms = again.subscribe(json!([{ "room": "project:p", "since": last }])).await;
        assert_eq!(rooms[0]["recovered"], true);
        for seq in last + 1..=head {
            assert_eq!(again.expect("change").await["seq"], seq);
        }
    }
    for client in &mut healthy {
        assert_eq!(client.settle().await, [] as [Value; 0]);
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_for_more_than_it_reads_is_sent_away() {
    let hub = TestHub::start_with(|config| {
        config.limits.outbox_bytes = OUTBOX;
        config.limits.frames_per_second = 1_000_000;
    })
    .await;
    let mut raw = Raw::open_narrow(&hub.ws()).await;
    raw.upgrade(&token("ana", &json!({ "p": "editor" }))).await;
    let ping = text(&json!({ "type": "ping", "id": "x".repeat(64) }));
    let burst = ping.repeat(1000);
    // Answers to more than all buffers on the way can hold, none of them read.
    for _ in 0..200 {
        // Once it is sent away its own bytes are not taken any more either.
        let sending = raw.stream.write_all(&burst);
        if !matches!(timeout(Duration::from_secs(2), sending).await, Ok(Ok(()))) {
            break;
        }
    }
    eventually("it is sent away", || async {
        hub.metric("syncline_drops_total{reason=\"outbox\"}") == 1.0
    })
    .await;
    let (_, code) = raw.end().await;
    assert_eq!(code, Some(4001));
    eventually("it is gone", || async { hub.metric("syncline_connections") == 0.0 }).await;
    hub.stop().await;
}

#[tokio::test]
async fn writes_that_wait_are_bounded_in_bytes() {
    let hub = TestHub::start_with(|config| config.store.queue_bytes = 1000).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let write = |id: &str, bytes: usize| {
        let op = create(id, id, &json!({ "x": "x".repeat(bytes) }));
        json!({ "type": "write", "id": id, "project": "p", "ops": [op] })
    };
    // Somebody else writes to the file and does not come to an end.
    let url = hub.hub().config.store.url.clone();
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    for (id, bytes) in [("a", 600), ("b", 600), ("c", 50)] {
        ana.send(&write(id, bytes)).await;
    }
    let refused = ana.expect("error").await;
    assert_eq!((&refused["id"], &refused["code"]), (&json!("b"), &json!("overloaded")));
    assert!(refused["retry_after_ms"].as_u64().is_some());
    assert_eq!(hub.metric("syncline_drops_total{reason=\"write_queue\"}"), 1.0);

    // What waits is written once it can be, and then there is room again, more than for one that is too large.
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    for id in ["a", "c"] {
        assert_eq!(ana.find("its verdict", |frame| frame["id"] == id).await["type"], "written");
    }
    for id in ["b", "d"] {
        ana.send(&write(id, 2000)).await;
        assert_eq!(ana.find("its verdict", |frame| frame["id"] == id).await["type"], "written");
    }
    hub.stop().await;
}
