//! Delta sync against a model: whatever is written between two pieces, the copy ends up as the store is.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use syncline::auth::Roles;
use syncline::config;
use syncline::id::{EntityKey, Epoch, ProjectId, Seq};
use syncline::protocol::server::ResyncReason;
use syncline::protocol::sums::{BucketSet, bucket};
use syncline::store::{DeltaRow, PendingOp, Store};
use syncline::sync::delta::{Cursor, DeltaError, Deltas, Reading, Room, Wanted};

use crate::support::crowd::seed;
use crate::support::eventually;
use crate::support::plan::{commit, delete, project, set};
use crate::support::site::Site;

on_both_engines!(
    whatever_moves_between_pieces_nothing_is_missed,
    a_cursor_is_refused_when_it_cannot_be_trusted,
    a_reader_of_few_among_many_gets_on,
    a_reply_under_way_ends_if_the_past_changes,
);

const KINDS: [&str; 3] = ["task", "note", "payroll"];

pub(super) fn wanted(reads: &[&str]) -> Wanted {
    let read = reads.iter().map(|&name| name.to_owned()).collect();
    let role = config::Role { read, ..config::Role::default() };
    let roles = Roles::compile(&config::Roles([("r".to_owned(), role)].into())).unwrap();
    let role = roles.get(&"r".parse().unwrap()).unwrap().clone();
    Wanted { role, types: None, buckets: None }
}

pub(super) fn of_kind(kind: &str, mut op: PendingOp) -> PendingOp {
    op.op.entity_type = kind.parse().unwrap();
    op
}

const EVERYTHING: Room = Room { rows: u32::MAX, bytes: u64::MAX };

/// A client's copy.
#[derive(Default)]
pub(super) struct Copy {
    pub(super) rows: BTreeMap<EntityKey, DeltaRow>,
    pub(super) cursor: Cursor,
}

impl Copy {
    pub(super) fn put(&mut self, rows: Vec<DeltaRow>) {
        for row in rows {
            self.rows.insert(row.key.clone(), row);
        }
    }

    pub(super) fn finish(&mut self, reading: &Reading) {
        self.cursor.since = reading.cursor();
        self.cursor.epoch = Some(reading.epoch());
        self.cursor.begun = reading.begun();
    }

    /// What of it should equal the store's.
    fn state(&self) -> Vec<(EntityKey, Seq, bool, String)> {
        let rows = self.rows.values();
        rows.map(|row| (row.key.clone(), row.version, row.deleted, row.fields.get().to_owned()))
            .collect()
    }
}

/// Everything in one go, while nobody writes.
async fn truth(store: &Store, p: &ProjectId, wanted: &Wanted) -> Copy {
    let mut copy = Copy::default();
    let page = store.delta(p, Seq::ZERO, u32::MAX, u64::MAX).await.unwrap();
    copy.put(page.rows.into_iter().filter(|row| wanted.takes(&row.key)).collect());
    copy.cursor.since = page.head;
    copy
}

/// Random writes, most of them to entities that are there.
struct Writer<'a> {
    store: &'a Store,
    project: ProjectId,
    random: StdRng,
    ops: u32,
}

impl Writer<'_> {
    async fn write(&mut self, ops: u32) {
        let ops: Vec<_> = (0..ops)
            .map(|_| {
                self.ops += 1;
                let id = format!("e{}", self.random.random_range(0..120));
                let kind = KINDS[self.random.random_range(0..KINDS.len())];
                let op_id = self.ops.to_string();
                let op = if self.random.random_ratio(1, 5) {
                    delete(&op_id, &id)
                } else {
                    let long = "x".repeat(self.random.random_range(0..400));
                    set(&op_id, &id, json!({ "n": self.ops, "long": long }))
                };
                of_kind(kind, op)
            })
            .collect();
        if !ops.is_empty() {
            commit(self.store, &self.project, &ops).await.unwrap();
        }
    }
}

async fn whatever_moves_between_pieces_nothing_is_missed(site: Site) {
    let store = site.open().await;
    let seed = seed();
    for (run, reads) in [&["*"][..], &["task", "payroll"], &["nothing"], &["*"]].iter().enumerate()
    {
        let p = project(&format!("p{run}"));
        let mut random = StdRng::seed_from_u64(seed + run as u64);
        let deltas = Deltas::new(store.clone(), &site.config);
        let mut wanted = wanted(reads);
        if run == 3 {
            wanted.types = Some([KINDS[0].parse().unwrap(), KINDS[1].parse().unwrap()].into());
            wanted.buckets = BucketSet::parse("0,1,2,3,5,8,13,21,34,55");
        }
        let inner = StdRng::seed_from_u64(random.random());
        let mut writer = Writer { store: &store, project: p.clone(), random: inner, ops: 0 };
        let mut copy = Copy::default();
        writer.write(200).await;
        for _ in 0..25 {
            // One page with its pieces; or, at the end of the log, the next page begins.
            let (rows, bytes) = (random.random_range(1..40), random.random_range(1..8_000));
            let room = Room { rows, bytes };
            let begun = deltas.begin(&p, wanted.clone(), copy.cursor, room).await.unwrap();
            let (mut reading, mut rows) = begun;
            assert_eq!(reading.resync(), None);
            loop {
                copy.put(rows);
                writer.write(random.random_range(0..8)).await;
                let Some(next) = reading.next().await.unwrap() else { break };
                rows = next;
            }
            assert!(reading.cursor() > copy.cursor.since || !reading.more(), "stuck");
            copy.finish(&reading);
        }
        loop {
            let begun = deltas.begin(&p, wanted.clone(), copy.cursor, EVERYTHING).await.unwrap();
            let (mut reading, rows) = begun;
            copy.put(rows);
            while let Some(rows) = reading.next().await.unwrap() {
                copy.put(rows);
            }
            copy.finish(&reading);
            if !reading.more() {
                break;
            }
        }
        let truth = truth(&store, &p, &wanted).await;
        assert_eq!(copy.state(), truth.state(), "seed {seed}, run {run}");
        assert_eq!(copy.cursor.since, truth.cursor.since);
        // A role that reads nothing, or a few buckets alone, may meet no deleted row.
        assert!(run > 1 || copy.rows.values().any(|row| row.deleted));
    }
}

async fn a_cursor_is_refused_when_it_cannot_be_trusted(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops: Vec<_> = (0..6).map(|i| set(&format!("o{i}"), &format!("t{i}"), json!({}))).collect();
    let epoch = commit(&store, &p, &ops).await.unwrap().epoch;
    let deltas = Deltas::new(store, &site.config);
    let read = async |cursor: Cursor| {
        let (reading, rows) = deltas.begin(&p, wanted(&["*"]), cursor, EVERYTHING).await.unwrap();
        (reading.resync(), rows.len())
    };
    let at = |since| Cursor { since: Seq(since), ..Cursor::default() };
    assert_eq!(read(at(0)).await, (None, 6));
    assert_eq!(read(at(4)).await, (None, 2));
    assert_eq!(read(Cursor { epoch: Some(epoch), ..at(4) }).await, (None, 2));
    let other = Some(Epoch::random());
    let changed = (Some(ResyncReason::EpochChanged), 6);
    assert_eq!(read(Cursor { epoch: other, ..at(4) }).await, changed);
    assert_eq!(read(at(7)).await, changed);
    assert_eq!(read(Cursor { begun: Some(Seq(7)), ..at(4) }).await, changed);
    let access = Cursor { scope_changed: true, ..at(4) };
    assert_eq!(read(access).await, (Some(ResyncReason::ScopeChanged), 6));
}

async fn a_reader_of_few_among_many_gets_on(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let key = |id: &str| EntityKey { kind: "task".parse().unwrap(), id: id.parse().unwrap() };
    let ops: Vec<_> =
        (0..12_000).map(|i| set(&format!("o{i}"), &format!("t{i}"), json!({}))).collect();
    for ops in ops.chunks(4_000) {
        commit(&store, &p, ops).await.unwrap();
    }
    let deltas = Deltas::new(store, &site.config);
    // Nothing at all, in a few turns of which each looks at a bounded number of keys.
    let room = Room { rows: 10, bytes: u64::MAX };
    let (mut reading, rows) =
        deltas.begin(&p, wanted(&["note"]), Cursor::default(), room).await.unwrap();
    assert_eq!((rows.len(), reading.cursor(), reading.more()), (0, Seq(500), true));
    assert_eq!(reading.begun(), Some(Seq(12_000)));
    let mut turns = 1;
    while let Some(rows) = reading.next().await.unwrap() {
        assert!(rows.is_empty());
        turns += 1;
    }
    // 500, 1000, 2000, 4000, and 5000 keys.
    assert_eq!((turns, reading.cursor(), reading.more()), (5, Seq(12_000), false));
    // One bucket of 64: each row once, and no more than asked for.
    let wanted = Wanted { buckets: BucketSet::parse("7"), ..wanted(&["*"]) };
    let expected = (0..12_000).filter(|i| bucket(&key(&format!("t{i}"))) == 7).count();
    let mut copy = Copy::default();
    loop {
        let (mut reading, mut rows) =
            deltas.begin(&p, wanted.clone(), copy.cursor, room).await.unwrap();
        let mut count = 0;
        loop {
            count += rows.len();
            copy.put(rows);
            let Some(next) = reading.next().await.unwrap() else { break };
            rows = next;
        }
        assert!(count <= 10);
        copy.finish(&reading);
        if !reading.more() {
            break;
        }
    }
    assert_eq!(copy.rows.len(), expected);
    assert!(expected > 100 && copy.rows.keys().all(|key| bucket(key) == 7));
}

async fn a_reply_under_way_ends_if_the_past_changes(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops: Vec<_> =
        (0..600).map(|i| set(&format!("o{i}"), &format!("t{i}"), json!({}))).collect();
    commit(&store, &p, &ops).await.unwrap();
    let deltas = Deltas::new(store.clone(), &site.config);
    let (mut reading, rows) =
        deltas.begin(&p, wanted(&["*"]), Cursor::default(), EVERYTHING).await.unwrap();
    assert!(rows.len() < 600 && reading.more());
    store.set_epoch(&p, Epoch::random()).await.unwrap();
    assert!(matches!(reading.next().await, Err(DeltaError::PastChanged)));
}

/// By PostgreSQL's own count of what the hub's statements touch; for SQLite's plan see `store::delta`.
#[tokio::test]
async fn a_piece_touches_the_rows_it_returns_however_long_the_history_is() {
    let mut touched = Vec::new();
    // Each entity was changed once, or ten times: the log is as much longer, and versions are further apart.
    for changes in [1, 10] {
        let site = Site::postgres().await;
        let p = project("p");
        let store = site.open().await;
        store.open_project(&p).await.unwrap();
        let (count, head) = (20_000, 20_000 * changes);
        site.run(&format!(
            "INSERT INTO entities (project, type, id, version, data, writer, writer_base)
                 SELECT 'p', 'task', n, n * {changes}, '{{}}', 'c', 0 FROM generate_series(1, {count}) n;
             INSERT INTO changes (project, seq, type, id, kind, patch, prev, actor, client, op_id, at)
                 SELECT 'p', n, 'task', n % {count}, 'update', '{{}}', 0, 'u', 'c', n, 0
                 FROM generate_series(1, {head}) n;
             UPDATE sync_head SET head_seq = {head};"
        ))
        .await;
        site.run("ANALYZE entities, changes").await;
        site.run("SELECT pg_stat_reset()").await;
        // So many that to sort them all would be more work.
        let after = Seq(head - 15_000 * changes);
        let piece = store.delta(&p, after, 500, u64::MAX).await.unwrap();
        let versions: Vec<_> = (1..=500).map(|n| Seq(after.0 + n * changes)).collect();
        assert_eq!(piece.rows.iter().map(|row| row.version).collect::<Vec<_>>(), versions);
        let rest = store.delta_keys(&p, versions[499], 500).await.unwrap();
        assert_eq!(rest.rows.len(), 500);
        // A session counts at its end, if not before.
        store.close().await;
        touched.push(Touched::counted(&site, 2).await);
    }
    for counts in touched {
        assert_eq!(counts, Touched { entries: 1000, scans: 0, log: 0 });
    }
}

/// What does not fit into a piece is read again with the next one: so no more is read than is expected to fit.
#[tokio::test]
async fn large_entities_are_read_once() {
    let site = Site::postgres().await;
    let p = project("p");
    let store = site.open().await;
    store.open_project(&p).await.unwrap();
    // 32 fill a piece.
    site.run(
        "INSERT INTO entities (project, type, id, version, data, writer, writer_base)
             SELECT 'p', 'task', n, n, json_build_object('text', repeat('x', 2000)), 'c', 0
             FROM generate_series(1, 2000) n;
         UPDATE sync_head SET head_seq = 2000;
         ANALYZE entities;
         SELECT pg_stat_reset()",
    )
    .await;
    let deltas = Deltas::new(store.clone(), &site.config);
    let begun = deltas.begin(&p, wanted(&["*"]), Cursor::default(), EVERYTHING).await.unwrap();
    let (mut reading, rows) = begun;
    let (mut read, mut pieces) = (rows.len(), 1);
    while let Some(rows) = reading.next().await.unwrap() {
        read += rows.len();
        pieces += 1;
    }
    assert_eq!(read, 2000);
    store.close().await;
    let touched = Touched::counted(&site, pieces).await;
    assert!(touched.entries <= 2000 + pieces, "{touched:?} in {pieces} pieces");
}

/// What statements touched.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Touched {
    /// Entries of the index in the order of versions.
    entries: i64,
    /// How often the table of entities was read as a whole.
    scans: i64,
    /// How often the log was read at all.
    log: i64,
}

impl Touched {
    /// Once so many scans of the index were counted.
    async fn counted(site: &Site, scans: i64) -> Self {
        const SCANS: &str =
            "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'entities_in_order'";
        const COUNTS: &str = "
            SELECT i.idx_tup_read AS entries, e.seq_scan AS scans, l.seq_scan + l.idx_scan AS log
            FROM pg_stat_user_indexes i, pg_stat_user_tables e, pg_stat_user_tables l
            WHERE i.indexrelname = 'entities_in_order' AND e.relname = 'entities' AND l.relname = 'changes'";
        let db = sqlx::PgPool::connect(&site.config.url).await.unwrap();
        eventually("the scans are counted", async || {
            sqlx::query_scalar::<_, i64>(SCANS).fetch_one(&db).await.unwrap() >= scans
        })
        .await;
        sqlx::query_as(COUNTS).fetch_one(&db).await.unwrap()
    }
}
