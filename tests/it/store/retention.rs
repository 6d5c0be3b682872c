//! Retention: what is past its time goes, what somebody still needs stays, and no cursor misses anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use syncline::clock;
use syncline::config;
use syncline::id::{EntityKey, ProjectId, Seq};
use syncline::protocol::server::ResyncReason;
use syncline::store::retention::{Ages, Past, VERDICTS};
use syncline::store::{Batch, PendingOp, RevocationRow, Store};
use syncline::sync::delta::{Cursor, Deltas, Room};
use syncline::sync::retention::Retention;
use syncline::telemetry::{Metrics, Purged};
use tokio_util::sync::CancellationToken;

use super::delta::wanted;
use crate::support::crowd::seed;
use crate::support::eventually;
use crate::support::plan::{ack, commit, delete, last_wins, project, set, task};
use crate::support::site::Site;

on_both_engines!(
    what_is_past_its_time_goes_and_the_rest_stays,
    a_device_that_may_come_back_is_waited_for,
    by_default_tombstones_wait_for_a_device_too,
    a_device_that_stays_too_far_behind_is_waited_for_no_more,
    a_cursor_from_before_a_purge_is_told_and_misses_nothing,
    two_instances_never_purge_at_once,
    who_was_killed_in_the_middle_is_replaced,
    the_command_counts_and_purges,
);

fn retention(store: &Store, change: impl FnOnce(&mut config::Retention)) -> Retention {
    let mut config = config::Retention { batch: 7, ..config::Retention::default() };
    change(&mut config);
    let pushes = Duration::from_secs(30 * 24 * 3600);
    Retention::new(store.clone(), "test".into(), config, pushes, Metrics::new())
}

async fn commit_now(store: &Store, project: &ProjectId, ops: &[PendingOp]) {
    let batches = [Batch { project, ops }];
    store.commit(&batches, clock::now_ms(), &last_wins).await.unwrap();
}

fn sets(name: &str, range: std::ops::Range<u32>) -> Vec<PendingOp> {
    range.map(|i| set(&format!("{name}{i}"), &format!("t{i}"), json!({}))).collect()
}

fn deletes(range: std::ops::Range<u32>) -> Vec<PendingOp> {
    range.map(|i| delete(&format!("d{i}"), &format!("t{i}"))).collect()
}

/// Of each something old; a conflict nobody has decided since yesterday, one decided yesterday, and
/// something new.
const MORE: &str = "
    INSERT INTO id_mappings (project, user_id, client, type, local_id, server_id, at) VALUES
        ('p', 'ana', 'phone', 'task', 'l1', 't1', 1000), ('p', 'ana', 'phone', 'task', 'l2', 't2', {now});
    INSERT INTO conflict_log (project, id, user_id, client, op_id, type, entity_id, kind, op_kind,
        strategy, outcome, state, base, server_version, fields, created_at, resolved_at) VALUES
        ('p', '1', 'ana', 'phone', 'o1', 'task', 't1', 'fields', 'update', 'merge', 'merged', 'closed', 1, 2, '[]', 1000, NULL),
        ('p', '2', 'ana', 'phone', 'o2', 'task', 't1', 'fields', 'update', 'manual', 'conflict', 'open', 1, 2, '[]', 1000, NULL),
        ('p', '3', 'ana', 'phone', 'o3', 'task', 't1', 'fields', 'update', 'manual', 'conflict', 'resolved', 1, 2, '[]', 1000, 2000),
        ('p', '4', 'ana', 'phone', 'o4', 'task', 't1', 'fields', 'update', 'manual', 'conflict', 'resolved', 1, 2, '[]', 1000, {now}),
        ('p', '6', 'ana', 'phone', 'o6', 'task', 't1', 'fields', 'update', 'manual', 'conflict', 'open', 1, 2, '[]', {now}, NULL),
        ('p', '5', 'ana', 'phone', 'o5', 'task', 't1', 'fields', 'update', 'merge', 'merged', 'closed', 1, 2, '[]', {now}, NULL);
    INSERT INTO sync_log (project, id, kind, user_id, client, ops, bytes, applied, merged, noop,
        superseded, conflict, rejected, replayed, duration_ms, result, at)
    VALUES
        ('p', '1', 'write', 'ana', 'phone', 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 'ok', 1000),
        ('p', '2', 'write', 'ana', 'phone', 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 'ok', {now});
    INSERT INTO notifications (nid, project, user_id, evt_seq, title, body, lane, created_at, read_at, hidden)
    VALUES
        ('old', 'p', 'ana', 1, 't', '', 'high', 1000, NULL, 0),
        ('read', 'p', 'ana', 1, 't', '', 'high', 1000, {now}, 0),
        ('due', 'p', 'ana', 1, 't', '', 'high', 1000, NULL, 0),
        ('later', 'p', 'ana', 1, 't', '', 'high', 1000, NULL, 1),
        ('new', 'p', 'ana', 1, 't', '', 'high', {now}, NULL, 0);
    INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at) VALUES
        ('old', 'p', 'ana', 1, 'high', 'done', 1000, 1000),
        ('due', 'p', 'ana', 1, 'high', 'waiting', {now}, 1000),
        ('later', 'p', 'ana', 1, 'high', 'scheduled', {now}, 1000);
    INSERT INTO push_deliveries (nid, project, user_id, evt_seq, lane, provider, payload, state, next_at, expires_at,
        created_at, finished_at)
    SELECT 'n', 'p', 'ana', 1, 'high', 'expo', '', state, 0, 0, 1000, finished_at FROM (
        SELECT 'handed' AS state, 1000 AS finished_at UNION ALL SELECT 'failed', 1000 UNION ALL
        SELECT 'canceled', 1000 UNION ALL SELECT 'expired', 1000 UNION ALL SELECT 'handed', 1000 UNION ALL
        SELECT 'handed', 1000 UNION ALL SELECT 'handed', 1000 UNION ALL SELECT 'handed', 1000 UNION ALL
        SELECT 'handed', {now} UNION ALL SELECT 'accepted', NULL) d;
    INSERT INTO push_stats (minute, project, lane, provider, event, reason, count) VALUES
        (1, 'p', 'high', 'expo', 'sent', '', 1), ({now} / 60000, 'p', 'high', 'expo', 'sent', '', 1);
    INSERT INTO push_minutes (user_id, minute, count) VALUES
        ('ana', {now} / 60000 - 61, 1), ('ana', {now} / 60000 - 50, 1);
    INSERT INTO push_windows (user_id, project, collapse, sent_at) VALUES
        ('ana', 'p', 'old', {now} - 90000000), ('ana', 'p', 'new', {now} - 80000000);
";

async fn what_is_past_its_time_goes_and_the_rest_stays(site: Site) {
    let store = site.open().await;
    // Old: 30 creates and 10 deletes. New: 5 creates and 5 deletes. And a project of new things alone.
    let (p, q) = (project("p"), project("q"));
    let old = sets("c", 0..30);
    let first = commit(&store, &p, &old).await.unwrap();
    let gone: Vec<_> = (0..10).map(|i| delete(&format!("d{i}"), &format!("t{i}"))).collect();
    commit(&store, &p, &gone).await.unwrap();
    commit_now(&store, &p, &sets("n", 30..35)).await;
    let gone: Vec<_> = (10..15).map(|i| delete(&format!("e{i}"), &format!("t{i}"))).collect();
    commit_now(&store, &p, &gone).await;
    commit_now(&store, &q, &[set("1", "t", json!({})), delete("2", "t")]).await;
    ack(&store, ("p", "ana", "lost"), 3, true, 1000).await;
    let revoked = |body: &str, expires_at| RevocationRow { body: body.into(), expires_at };
    store.revoke(&revoked("old", 5)).await.unwrap();
    store.revoke(&revoked("new", clock::now_s() + 1000)).await.unwrap();

    site.run(&MORE.replace("{now}", &clock::now_ms().to_string())).await;

    let retention = retention(&store, |_| {});
    let expected = vec![
        (Purged::Changes, 40),
        (Purged::Tombstones, 10),
        (Purged::Verdicts, 40),
        (Purged::FailedOps, 0),
        (Purged::Mappings, 1),
        (Purged::Conflicts, 2),
        (Purged::OpenConflicts, 1),
        (Purged::Requests, 1),
        (Purged::Devices, 1),
        (Purged::Revocations, 1),
        (Purged::Notifications, 2),
        (Purged::PushDeliveries, 8),
        (Purged::PushIntents, 1),
        (Purged::PushStats, 1),
        (Purged::PushMinutes, 1),
        (Purged::PushWindows, 1),
    ];
    assert_eq!(retention.look().await.unwrap(), expected, "a dry run tells the same");
    assert_eq!(retention.look().await.unwrap(), expected, "and changes nothing");
    let stop = CancellationToken::new();
    assert_eq!(retention.purge(&stop).await.unwrap().unwrap(), expected);
    let again = retention.purge(&stop).await.unwrap().unwrap();
    assert!(again.iter().all(|(_, count)| *count == 0), "{again:?}");

    let log = store.page(&p, Seq::ZERO, 100, u64::MAX).await.unwrap();
    assert_eq!((log.floor, log.entries.len(), log.head), (Seq(40), 10, Seq(50)));
    let page = store.delta(&p, Seq::ZERO, 100, u64::MAX).await.unwrap();
    assert_eq!((page.tombstone_floor, page.rows.len()), (Seq(40), 25));
    assert_eq!(page.rows.iter().filter(|row| row.deleted).count(), 5);
    assert!(store.entity(&p, &task("t3")).await.unwrap().is_none());
    assert!(store.entity(&p, &task("t20")).await.unwrap().is_some());
    let young = store.page(&q, Seq::ZERO, 100, u64::MAX).await.unwrap();
    assert_eq!((young.floor, young.entries.len()), (Seq::ZERO, 2));
    assert_eq!(store.revocations(0).await.unwrap().len(), 1);
    // A young verdict answers a retry still; an old operation would be new again.
    let again = commit(&store, &p, &sets("n", 30..35)).await.unwrap();
    assert!(again.entries.is_empty());
    assert_eq!(first.head, Seq(30));
    assert_eq!(commit(&store, &p, &old[..1]).await.unwrap().head, Seq(51));
}

async fn a_device_that_may_come_back_is_waited_for(site: Site) {
    let store = site.open().await;
    let p = project("p");
    commit(&store, &p, &sets("c", 0..20)).await.unwrap();
    commit(&store, &p, &deletes(0..10)).await.unwrap();
    let now = clock::now_ms();
    let ack = async |client: &str, seq, at| ack(&store, ("p", "ana", client), seq, true, at).await;
    ack("phone", 23, now).await;
    ack("tablet", 30, now).await;
    ack("lost", 2, now - 31 * 24 * 3600 * 1000).await;
    ack("", 5, now).await;
    let retention = retention(&store, |config| config.max_lag = Duration::MAX);
    let stop = CancellationToken::new();
    let floors = async || {
        let counted = retention.look().await.unwrap();
        let purged = retention.purge(&stop).await.unwrap().unwrap();
        assert_eq!(counted[..2], purged[..2]);
        let log = store.page(&p, Seq::ZERO, 1, u64::MAX).await.unwrap().floor;
        (log.0, store.delta(&p, Seq::ZERO, 1, u64::MAX).await.unwrap().tombstone_floor.0)
    };
    assert_eq!(floors().await, (23, 23));
    ack("phone", 24, now).await;
    assert_eq!(floors().await, (24, 24));
    ack("phone", 30, now).await;
    assert_eq!(floors().await, (30, 30));
}

async fn by_default_tombstones_wait_for_a_device_too(site: Site) {
    const DAY: i64 = 24 * 3600 * 1000;
    let store = site.open().await;
    let p = project("p");
    let now = clock::now_ms();
    for (days, ops) in [(130, sets("c", 0..20)), (120, deletes(0..10))] {
        let batches = [Batch { project: &p, ops: &ops }];
        store.commit(&batches, now - days * DAY, &last_wins).await.unwrap();
    }
    ack(&store, ("p", "ana", "phone"), 23, true, now).await;
    let counts = retention(&store, |_| {}).purge(&CancellationToken::new()).await.unwrap().unwrap();
    assert_eq!(counts[..2], [(Purged::Changes, 23), (Purged::Tombstones, 3)]);
}

async fn a_device_that_stays_too_far_behind_is_waited_for_no_more(site: Site) {
    const DAY: i64 = 24 * 3600 * 1000;
    let store = site.open().await;
    let p = project("p");
    let now = clock::now_ms();
    // Positions 1 to 20: 100 days old. 21 to 30, all tombstones: 95 days. 31 to 40, tombstones: 80 days.
    for (days, ops) in [(100, sets("c", 0..20)), (95, deletes(0..10)), (80, deletes(10..20))] {
        let batches = [Batch { project: &p, ops: &ops }];
        store.commit(&batches, now - days * DAY, &last_wins).await.unwrap();
    }
    // Each was here today.
    let ack = async |client: &str, seq| ack(&store, ("p", "ana", client), seq, true, now).await;
    ack("stuck", 23).await;
    ack("slow", 35).await;
    ack("quick", 40).await;

    // Without a limit the device that is stuck holds back everything; with one only the others count.
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let purge = async |max_lag| {
        let retention = retention(&store, |config| {
            (config.log, config.tombstones, config.max_lag) = (days(30), days(30), max_lag);
        });
        let counted = retention.look().await.unwrap();
        let purged = retention.purge(&CancellationToken::new()).await.unwrap().unwrap();
        assert_eq!(counted[..2], purged[..2]);
        let log = store.page(&p, Seq::ZERO, 1, u64::MAX).await.unwrap().floor;
        (log.0, store.delta(&p, Seq::ZERO, 1, u64::MAX).await.unwrap().tombstone_floor.0)
    };
    assert_eq!(purge(days(1000)).await, (23, 23));
    assert_eq!(purge(days(90)).await, (35, 35));
    assert_eq!(purge(days(1000)).await, (35, 35), "who is below the floor is waited for no more");

    // The one that was stuck is told, the others read on; and once it is back it is waited for again.
    let deltas = Deltas::new(store.clone(), &site.config);
    let epoch = Some(store.open_project(&p).await.unwrap().epoch);
    for (since, told) in [(23, Some(ResyncReason::CursorTooOld)), (35, None), (40, None)] {
        let cursor = Cursor { since: Seq(since), epoch, begun: None, scope_changed: false };
        let room = Room { rows: 100, bytes: u64::MAX };
        let (reading, _) = deltas.begin(&p, wanted(&["*"]), cursor, room).await.unwrap();
        assert_eq!(reading.resync(), told, "from {since}");
    }
    ack("stuck", 38).await;
    ack("slow", 40).await;
    assert_eq!(purge(days(90)).await, (38, 38));
}

/// A client: its copy, where it stands, and how often it was told to begin anew.
#[derive(Default)]
struct Client {
    copy: BTreeMap<EntityKey, Seq>,
    cursor: Cursor,
    resyncs: u32,
}

impl Client {
    /// Reads a page; whether another follows.
    async fn read(&mut self, deltas: &Deltas, p: &ProjectId, rows: u32) -> bool {
        let room = Room { rows, bytes: u64::MAX };
        let begun = deltas.begin(p, wanted(&["*"]), self.cursor, room).await.unwrap();
        let (reading, rows) = begun;
        if let Some(reason) = reading.resync() {
            assert_eq!(reason, ResyncReason::CursorTooOld);
            self.copy.clear();
            self.resyncs += 1;
        }
        for row in rows {
            if row.deleted {
                self.copy.remove(&row.key);
            } else {
                self.copy.insert(row.key, row.version);
            }
        }
        self.cursor = Cursor {
            since: reading.cursor(),
            epoch: Some(reading.epoch()),
            begun: reading.begun(),
            scope_changed: false,
        };
        reading.more()
    }
}

async fn a_cursor_from_before_a_purge_is_told_and_misses_nothing(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let deltas = Deltas::new(store.clone(), &site.config);
    let ages = Ages { keep: Duration::ZERO, consumers: Duration::ZERO, max_lag: Duration::MAX };
    let lease = store.lease("retention", "test", Duration::from_secs(60)).await.unwrap().unwrap();
    let mut clients: [Client; 8] = Default::default();
    let mut reads = 0;
    for turn in 0..60 {
        let ops: Vec<_> = (0..random.random_range(1..12))
            .map(|n| {
                let op_id = format!("{turn}-{n}");
                let id = format!("t{}", random.random_range(0..40));
                let gone = random.random_ratio(1, 3);
                if gone { delete(&op_id, &id) } else { set(&op_id, &id, json!({})) }
            })
            .collect();
        commit(&store, &p, &ops).await.unwrap();
        for client in &mut clients {
            // Some are away; some read a page of several, and the purge strikes before the next.
            if random.random_ratio(1, 4) {
                client.read(&deltas, &p, random.random_range(1..20)).await;
                reads += 1;
            }
            if random.random_ratio(1, 20) {
                let past = if random.random() { Past::Log } else { Past::Tombstones };
                store.purge_past(&lease, past, &p, ages, 5).await.unwrap().unwrap();
            }
        }
    }
    let truth = store.delta(&p, Seq::ZERO, 1000, u64::MAX).await.unwrap();
    let living = truth.rows.into_iter().filter(|row| !row.deleted);
    let living: BTreeMap<_, _> = living.map(|row| (row.key, row.version)).collect();
    for client in &mut clients {
        let mut pages = 0;
        while client.read(&deltas, &p, 7).await {
            pages += 1;
            assert!(pages < 100, "sent back to the start again and again");
        }
        assert_eq!(client.cursor.since, truth.head);
        assert_eq!(client.copy, living, "seed {seed}");
    }
    let resyncs: u32 = clients.iter().map(|client| client.resyncs).sum();
    assert!(0 < resyncs && resyncs < reads, "{resyncs} of {reads}");
}

async fn two_instances_never_purge_at_once(site: Site) {
    let (here, there) = (site.open().await, site.open().await);
    let p = project("p");
    commit(&here, &p, &sets("c", 0..40)).await.unwrap();
    let long = Duration::from_secs(60);
    let held = here.lease("retention", "here", long).await.unwrap().unwrap();
    assert_eq!(there.lease("retention", "there", long).await.unwrap(), None);
    assert!(there.lease("another job", "there", long).await.unwrap().is_some());
    let other = retention(&there, |_| {});
    assert_eq!(other.purge(&CancellationToken::new()).await.unwrap(), None);
    let log = here.page(&p, Seq::ZERO, 100, u64::MAX).await.unwrap();
    assert_eq!(log.entries.len(), 40);
    here.release(&held).await.unwrap();

    // A holder that slept too long is not believed any more, whoever has the lease now.
    let short = here.lease("retention", "here", Duration::from_millis(1)).await.unwrap().unwrap();
    let ages = Ages { keep: Duration::ZERO, consumers: Duration::ZERO, max_lag: Duration::MAX };
    let taken = Arc::new(std::sync::Mutex::new(None));
    eventually("the lease ends", || {
        let (there, taken) = (there.clone(), taken.clone());
        async move {
            let lease = there.lease("retention", "there", long).await.unwrap();
            let got = lease.is_some();
            *taken.lock().unwrap() = lease;
            got
        }
    })
    .await;
    assert_eq!(here.purge_past(&short, Past::Log, &p, ages, 5).await.unwrap(), None);
    assert_eq!(here.purge_aged(&short, VERDICTS, Duration::ZERO, 5).await.unwrap(), None);
    here.release(&short).await.unwrap();
    let taken = taken.lock().unwrap().take().unwrap();
    assert_eq!(there.purge_past(&taken, Past::Log, &p, ages, 5).await.unwrap(), Some(5));
    assert_eq!(there.purge_aged(&taken, VERDICTS, Duration::ZERO, 5).await.unwrap(), Some(5));
    there.release(&taken).await.unwrap();

    // Many at once: each row goes once.
    let purgers = [&here, &there, &here, &there].map(|store| retention(store, |_| {}));
    let stop = CancellationToken::new();
    let mut purged = 0;
    for counts in futures_util::future::join_all(purgers.iter().map(|p| p.purge(&stop))).await {
        purged += counts.unwrap().map_or(0, |counts| counts[0].1);
    }
    assert_eq!(purged, 35);
}

async fn who_was_killed_in_the_middle_is_replaced(site: Site) {
    let p = project("p");
    let store = site.open().await;
    commit(&store, &p, &sets("c", 0..40)).await.unwrap();
    let ages = Ages { keep: Duration::ZERO, consumers: Duration::ZERO, max_lag: Duration::MAX };
    let lease =
        store.lease("retention", "dead", Duration::from_millis(300)).await.unwrap().unwrap();
    assert_eq!(store.purge_past(&lease, Past::Log, &p, ages, 5).await.unwrap(), Some(5));
    drop((store, lease)); // nothing given back

    let store = site.open().await;
    let log = store.page(&p, Seq::ZERO, 100, u64::MAX).await.unwrap();
    assert_eq!((log.floor, log.entries.len()), (Seq(5), 35));
    let heir = retention(&store, |_| {});
    let stop = CancellationToken::new();
    eventually("the lease of the dead ends", || async {
        heir.purge(&stop).await.unwrap().is_some_and(|counts| counts[0] == (Purged::Changes, 35))
    })
    .await;
    let log = store.page(&p, Seq::ZERO, 100, u64::MAX).await.unwrap();
    assert_eq!((log.floor, log.entries.len()), (Seq(40), 0));
}

async fn the_command_counts_and_purges(site: Site) {
    let store = site.open().await;
    let p = project("p");
    commit(&store, &p, &sets("c", 0..12)).await.unwrap();
    let run = async |flags: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_syncline"));
        command.arg("--set").arg(format!("store.url={}", site.config.url));
        let output = command.args(["retention", "run"]).args(flags).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let changes = text.lines().find_map(|line| line.trim().strip_suffix(" changes"));
        (output.status.code().unwrap(), changes.map(str::to_owned))
    };
    let left = async || store.page(&p, Seq::ZERO, 100, u64::MAX).await.unwrap().entries.len();
    assert_eq!(run(&["--dry-run"]).await, (0, Some("12".into())));
    assert_eq!(left().await, 12);
    let lease = store.lease("retention", "other", Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(run(&[]).await, (1, None));
    assert_eq!(left().await, 12);
    store.release(&lease).await.unwrap();
    assert_eq!(run(&[]).await, (0, Some("12".into())));
    assert_eq!(left().await, 0);
    assert_eq!(run(&["--dry-run"]).await, (0, Some("0".into())));
}
