//! Whatever breaks between the instances, every reader gets every change once and in order.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::client::{Client, create, seqs};
use crate::support::crowd::{Crowd, PROJECT, full, hide_payroll, seed};
use crate::support::hub::{TestHub, token};
use crate::support::postgres;
use crate::support::process::{Cluster, log_of};
use crate::support::proxy::{Proxy, Way};
use crate::support::{DEADLINE, eventually};

/// Longer than any test runs: what must not help.
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_or_repeats_a_change_while_everything_breaks() {
    let seed = seed();
    let mut cluster = Cluster::start(|config| {
        hide_payroll(config);
        // So little that most who resume have to read the store, in several pages.
        (config.limits.recent_bytes, config.limits.page_changes) = (10_000, 30);
    })
    .await;
    let mut crowd = Crowd::new(cluster.urls(), seed);
    crowd.read_all_ways();
    let (ops, rest) = if full() { (126_000, 15) } else { (3_600, 110) };
    for _ in 0..6 {
        crowd.write(ops / 6, Duration::from_millis(rest));
    }
    let written = CancellationToken::new();
    let breaking = chaos(&mut cluster, SmallRng::seed_from_u64(seed), written.clone());
    tokio::join!(breaking, async {
        crowd.written().await;
        written.cancel();
    });
    // The message of the very last change is lost: its instance speaks into the void.
    cluster.links[0].swallow(Way::ToServer);
    crowd.write_last(&cluster.instances[0].ws()).await;
    let log = log_of(&cluster.store().await, PROJECT).await;
    println!("{} gaps or late heads were filled", cluster.metric("syncline_gap_fills_total").await);
    crowd.verify(log).await;
    eventually("whoever left is forgotten", || async {
        cluster.metric("syncline_subscriptions").await == 0.0
    })
    .await;
}

/// Breaks a link every now and then, and twice an instance, until told to stop; then all is whole again.
async fn chaos(cluster: &mut Cluster, mut random: SmallRng, stop: CancellationToken) {
    for act in 0_u32.. {
        let link = &cluster.links[random.random_range(0..cluster.links.len())];
        match random.random_range(0..6) {
            0 => link.cut_all(),
            1 => link.black_hole(),
            2 => link.swallow(Way::ToServer),
            3 => link.swallow(Way::ToClient),
            4 => link.delay(Duration::from_millis(random.random_range(1..60))),
            _ => {
                let _killed: i64 = cluster.redis.ask("CLIENT KILL TYPE pubsub").await.unwrap();
            }
        }
        let broken = Duration::from_millis(random.random_range(50..1200));
        let stopped = stop.run_until_cancelled(sleep(broken)).await.is_none();
        link.heal();
        if stopped {
            break;
        }
        if act % 20 == 4 {
            let instance = random.random_range(0..cluster.instances.len());
            cluster.instances[instance].kill().await;
            sleep(Duration::from_millis(random.random_range(0..500))).await;
            cluster.instances[instance].restart().await;
        }
        sleep(Duration::from_millis(random.random_range(0..300))).await;
    }
    cluster.linked().await;
}

/// A writer, ana, on the first instance and a reader, bo, on the second.
async fn pair(cluster: &Cluster) -> (Client, Client) {
    let [ana, bo] = ["ana", "bo"].map(|user| token(user, &json!({ PROJECT: "editor" })));
    let writer = Client::connect(&cluster.instances[0].ws(), &ana).await;
    let mut reader = Client::connect(&cluster.instances[1].ws(), &bo).await;
    reader.subscribe(json!([{ "room": "project:p" }])).await;
    (writer, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_is_lost_and_the_store_is_asked_for_it() {
    let database = postgres::fresh_database().await;
    let cluster = Cluster::start_on(database.clone(), |_| {}).await;
    let (mut writer, mut reader) = pair(&cluster).await;
    writer.write(PROJECT, json!([create("1", "t1", &json!({}))])).await;
    assert_eq!(reader.expect("change").await["seq"], 1);
    // Else it would be pushed at once.
    let db = PgPool::connect(&database).await.unwrap();
    eventually("bo is known to be connected", || async {
        let live = "SELECT count(*) FROM live_users WHERE user_id = 'bo'";
        sqlx::query_scalar::<_, i64>(live).fetch_one(&db).await.unwrap() > 0
    })
    .await;
    cluster.links[0].swallow(Way::ToServer);
    let mut op = create("2", "t2", &json!({}));
    op["notify"] = json!({ "users": ["bo"], "title": "look" });
    writer.write(PROJECT, json!([op])).await;
    // Nothing comes after it that could reveal the loss, and the reader's own link is well.
    assert_eq!(reader.expect("change").await["seq"], 2);
    // The reader will acknowledge the change: what it is to be shown with it must have come as well.
    assert_eq!(reader.expect("notification").await["title"], "look");
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_lost_in_the_middle_is_revealed_by_the_next_one() {
    let cluster = Cluster::start(|config| {
        (config.bus.head_poll, config.bus.head_poll_suspect) = (NEVER, NEVER);
    })
    .await;
    let (mut writer, mut reader) = pair(&cluster).await;
    cluster.links[0].swallow(Way::ToServer);
    writer.write(PROJECT, json!([create("0", "t0", &json!({}))])).await;
    cluster.links[0].heal();
    // Only one that is published once the link is back can reveal it; which one that is is not known.
    let revealed = async {
        for n in 1.. {
            let op = create(&n.to_string(), &format!("t{n}"), &json!({}));
            writer.write(PROJECT, json!([op])).await;
            if let Some(first) = seqs(&reader.settle().await).first() {
                return *first;
            }
            sleep(Duration::from_millis(50)).await;
        }
        unreachable!()
    };
    assert_eq!(timeout(DEADLINE, revealed).await.expect("the gap is filled in time"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_is_answered_after_its_commit() {
    let database = postgres::fresh_database().await;
    let cluster = Cluster::start_on(database.clone(), |_| {}).await;
    // While the switch is on, every commit fails at its very end.
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let fail_commits = "
        CREATE TABLE switch ();
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF to_regclass('switch') IS NOT NULL THEN
                RAISE EXCEPTION 'not now' USING ERRCODE = 'serialization_failure';
            END IF;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON changes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION fail();";
    connection.execute(fail_commits).await.unwrap();
    let (mut writer, mut reader) = pair(&cluster).await;
    let op = create("1", "t1", &json!({}));
    writer.send(&json!({ "type": "write", "id": "w", "project": PROJECT, "ops": [op] })).await;
    let failed =
        || async { cluster.instances[0].metric("syncline_store_errors_total").await > 1.0 };
    eventually("two commits failed", failed).await;
    assert!(writer.settle().await.iter().all(|frame| frame["type"] != "written"));
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0]);
    connection.execute("DROP TABLE switch").await.unwrap();
    let written = writer.expect("written").await;
    assert_eq!(written["verdicts"][0]["outcome"], "applied");
    assert_eq!(reader.expect("change").await["seq"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_outcome_was_unknown_is_told_all_the_same() {
    let database = postgres::fresh_database().await;
    let (server, name) = database.rsplit_once('/').unwrap();
    let link = Proxy::start(server.rsplit_once(':').unwrap().1.parse().unwrap()).await;
    let hub = TestHub::start_with(|config| {
        config.store.url = format!("postgres://postgres@127.0.0.1:{}/{name}", link.port());
        (config.bus.head_poll, config.bus.head_poll_suspect) = (NEVER, NEVER);
    })
    .await;
    let [editor, viewer] = ["editor", "viewer"].map(|role| json!({ PROJECT: role }));
    let mut ana = Client::connect(&hub.ws(), &token("ana", &editor)).await;
    let mut bo = Client::connect(&hub.ws(), &token("bo", &viewer)).await;
    bo.subscribe(json!([{ "room": "project:p" }])).await;
    // Every commit waits at its very end while this lock is held.
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let hold_commits = "
        CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock_shared(4711);
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON changes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION hold();
        SELECT pg_advisory_lock(4711);";
    connection.execute(hold_commits).await.unwrap();
    let mut op = create("1", "t1", &json!({}));
    op["notify"] = json!({ "users": ["bo"], "title": "look" });
    ana.send(&json!({ "type": "write", "id": "w", "project": PROJECT, "ops": [op] })).await;
    let mut watching = PgConnection::connect(&database).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watching).await.unwrap() == 0 {}
    // It will be committed, but whoever asked for it is not told.
    link.cut_all();
    eventually("its outcome is unknown", async || hub.metric("syncline_store_errors_total") >= 1.0)
        .await;
    connection.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    let written = ana.expect("written").await;
    assert_eq!(
        (&written["verdicts"][0]["outcome"], &written["verdicts"][0]["seq"]),
        (&json!("applied"), &json!(1))
    );
    assert_eq!(hub.metric("syncline_writes_total{outcome=\"replayed\"}"), 1.0, "it was run again");
    assert_eq!(bo.expect("change").await["seq"], 1);
    let notification = bo.expect("notification").await;
    assert_eq!((&notification["title"], &notification["seq"]), (&json!("look"), &json!(1)));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_postgres_under_writes_loses_nothing_acknowledged() {
    let seed = seed();
    let mut server = postgres::Server::start().await;
    let cluster = Cluster::start_on(server.url(), hide_payroll).await;
    let mut crowd = Crowd::new(cluster.urls(), seed);
    crowd.read_all_ways();
    for _ in 0..4 {
        crowd.write(200, Duration::from_millis(100));
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let written = CancellationToken::new();
    let restarts = async {
        for _ in 0..3 {
            let pause = Duration::from_millis(random.random_range(200..900));
            if written.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
            server = server.restart().await;
        }
        server
    };
    let (server, ()) = tokio::join!(restarts, async {
        crowd.written().await;
        written.cancel();
    });
    crowd.verify(log_of(&cluster.store().await, PROJECT).await).await;
    drop((cluster, server));
}
