//! Writing: the sequence is dense, a verdict is for ever, a failure leaves nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use syncline::id::{ProjectId, Seq};
use syncline::protocol::op::ChangeKind;
use syncline::store::push::{InboxQuery, Reads};
use syncline::store::{Answer, Batch, Effects, PendingOp, Snapshot, Store, StoreError};
use tokio::task::JoinHandle;

use crate::support::plan::{
    commit, commit_until_answered, delete, last_wins, notifying, project, set, task,
};
use crate::support::site::Site;

on_both_engines!(
    concurrent_writers_make_a_dense_sequence,
    a_replay_returns_the_same_bytes_and_writes_nothing,
    a_repeat_among_new_operations_is_found_and_the_next_expected,
    a_failed_commit_leaves_nothing_and_no_gap,
    a_plan_that_breaks_a_rule_is_refused,
    one_commit_may_carry_several_projects,
    what_is_committed_is_what_is_read,
    hostile_text_comes_back_as_it_was,
    a_lock_held_too_long_is_a_retryable_error,
);

async fn concurrent_writers_make_a_dense_sequence(site: Site) {
    const COMMITS: u64 = 20;
    const OPS: u64 = 3;
    let stores = [site.open().await, site.open().await];
    let p = project("p");
    let writers = (0..8u64).map(|writer| {
        let (store, p) = (stores[writer as usize % 2].clone(), p.clone());
        tokio::spawn(async move {
            let mut written = Vec::new();
            for n in 0..COMMITS {
                let ops: Vec<_> = (0..OPS)
                    .map(|i| set(&format!("{writer}-{n}-{i}"), &format!("t{i}"), json!({"n": n})))
                    .collect();
                let committed = commit_until_answered(&store, &p, &ops).await;
                written.extend(committed.entries.iter().map(|e| (e.seq, e.op_id.clone())));
            }
            written
        })
    });
    let mut written = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        written.extend(writer.await.unwrap());
    }
    written.sort_by_key(|(seq, _)| *seq);

    let total = 8 * COMMITS * OPS;
    let page = stores[0].page(&p, Seq::ZERO, 10_000, u64::MAX).await.unwrap();
    assert_eq!(page.head, Seq(total));
    let logged: Vec<_> = page.entries.iter().map(|e| (e.seq, e.op_id.clone())).collect();
    assert_eq!(logged, written);
    assert!(logged.iter().map(|(seq, _)| seq.0).eq(1..=total));
    for pair in page.entries.windows(2) {
        assert!(pair[1].prev < pair[1].seq);
    }
}

async fn a_replay_returns_the_same_bytes_and_writes_nothing(site: Site) {
    let (here, there) = (site.open().await, site.open().await);
    let p = project("p");
    let once = [set("a", "1", json!({})), set("b", "2", json!({}))];
    let first = commit(&here, &p, &once).await.unwrap();
    let again = [set("b", "2", json!({})), set("c", "3", json!({})), set("a", "1", json!({}))];
    let second = commit(&there, &p, &again).await.unwrap();
    assert_eq!(second.head, Seq(3));
    assert_eq!(second.entries.len(), 1);
    assert!(matches!(second.answers[0], Answer::Replayed(_)));
    assert_eq!(second.answers[0].verdict().get(), first.answers[1].verdict().get());
    assert_eq!(second.answers[2].verdict().get(), first.answers[0].verdict().get());

    let third = commit(&here, &p, &again).await.unwrap();
    assert_eq!((third.head, third.epoch), (Seq(3), first.epoch));
    assert!(third.entries.is_empty());
    assert_eq!(here.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap().head, Seq(3));
}

async fn a_repeat_among_new_operations_is_found_and_the_next_expected(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let plans = AtomicU32::new(0);
    let counting = |snapshot: &Snapshot, ops: &[PendingOp], now: i64| {
        plans.fetch_add(1, Ordering::Relaxed);
        last_wins(snapshot, ops, now)
    };
    let set = |op_id| set(op_id, "1", json!({}));
    let mut first = None;
    for (ops, times, head) in [
        (vec![set("a")], 1, 1),
        // It was taken for new, and so were the others beside it.
        (vec![set("b"), set("a"), set("c")], 2, 3),
        // Now it is looked for first.
        (vec![set("a"), set("d")], 1, 4),
    ] {
        plans.store(0, Ordering::Relaxed);
        let batch = Batch { project: &p, ops: &ops };
        let committed = store.commit(&[batch], 1, &counting).await.unwrap().remove(0);
        assert_eq!((plans.load(Ordering::Relaxed), committed.head), (times, Seq(head)));
        let a = ops.iter().position(|op| op.op.op_id.as_str() == "a").unwrap();
        let given = committed.answers[a].verdict().get().to_owned();
        assert_eq!(*first.get_or_insert(given.clone()), given, "the same bytes");
    }
    let log = store.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap().entries;
    assert_eq!(log.iter().map(|e| e.op_id.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

async fn a_failed_commit_leaves_nothing_and_no_gap(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let good = [notifying(set("a", "1", json!({"x": 1})), "ben", "hello")];

    let (mine, ops, name) = (store.clone(), good.clone(), p.clone());
    let panicked = tokio::spawn(async move {
        let plan = |_: &Snapshot, _: &[PendingOp], _| -> Effects { panic!("a bug in the plan") };
        mine.commit(&[Batch { project: &name, ops: &ops }], 1000, &plan).await.map(|_| ())
    });
    assert!(panicked.await.unwrap_err().is_panic());

    // Two verdicts for one operation: it fails when it is written.
    let twice = [good[0].clone(), good[0].clone()];
    let error = commit(&store, &p, &twice).await.unwrap_err();
    assert!(matches!(error, StoreError::Plan(_)) && !error.retryable(), "{error}");

    let page = store.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap();
    assert_eq!((page.head, page.entries.len()), (Seq::ZERO, 0));
    assert_eq!(store.entity(&p, &task("1")).await.unwrap(), None);
    assert_eq!(store.next_due().await.unwrap(), None);

    let committed = commit(&store, &p, &good).await.unwrap();
    assert_eq!(committed.head, Seq(1));
    assert!(store.next_due().await.unwrap().is_some());
}

async fn a_plan_that_breaks_a_rule_is_refused(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops = [set("a", "1", json!({}))];
    let batch = Batch { project: &p, ops: &ops };
    let gap = |snapshot: &Snapshot, ops: &[PendingOp], now: i64| {
        let mut effects = last_wins(snapshot, ops, now);
        effects.entries[0].seq = Seq(2);
        effects
    };
    let silent = |_: &Snapshot, _: &[PendingOp], _: i64| Effects::default();
    let refused = |result: Result<_, StoreError>| matches!(result, Err(StoreError::Plan(_)));
    assert!(refused(store.commit(&[batch], 1, &gap).await));
    assert!(refused(store.commit(&[batch], 1, &silent).await));
    assert!(refused(store.commit(&[batch, batch], 1, &last_wins).await));
    assert_eq!(commit(&store, &p, &ops).await.unwrap().head, Seq(1));
}

async fn one_commit_may_carry_several_projects(site: Site) {
    let store = site.open().await;
    let names = ["zeta", "alpha", "mid"].map(project);
    let ops: Vec<Vec<_>> = (1..=3)
        .map(|n| (0..n).map(|i| set(&format!("o{i}"), "t", json!({"i": i}))).collect())
        .collect();
    let batches: Vec<_> =
        names.iter().zip(&ops).map(|(project, ops)| Batch { project, ops }).collect();
    for committed in store.commit(&batches, 1000, &last_wins).await.unwrap() {
        let index = names.iter().position(|name| *name == committed.project).unwrap();
        assert_eq!(committed.head, Seq(index as u64 + 1));
        assert_eq!(committed.answers.len(), index + 1);
        let row = store.entity(&committed.project, &task("t")).await.unwrap().unwrap();
        assert_eq!((row.version, &row.fields["i"]), (committed.head, &json!(index)));
    }
    let again = store.commit(&batches, 1000, &last_wins).await.unwrap();
    assert!(again.iter().all(|c| c.entries.is_empty() && c.head.0 == c.answers.len() as u64));
}

async fn what_is_committed_is_what_is_read(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let ops = [set("a", "1", json!({"x": [1, {"y": null}], "é": "ü"})), delete("b", "1")];
    let committed = commit(&store, &p, &ops).await.unwrap();
    let page = store.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap();
    assert_eq!(format!("{:?}", page.entries), format!("{:?}", committed.entries));
    assert_eq!((page.head, page.epoch), (committed.head, committed.epoch));
    assert_eq!(page.entries[1].kind, ChangeKind::Delete);
    assert!(page.entries[1].fields.is_none());

    let row = store.entity(&p, &task("1")).await.unwrap().unwrap();
    assert!(row.deleted && row.fields.is_empty());
    assert_eq!((row.version, row.stamps.newest()), (Seq(2), Seq(2)));
    assert_eq!((row.stamps.writer(), row.source_versions["erp"]), ("phone", 3));

    // Once repeats are expected, a plan sees the same, and the tombstone.
    commit(&store, &p, &ops).await.unwrap();
    let seen = |snapshot: &Snapshot, ops: &[PendingOp], now: i64| {
        assert_eq!(snapshot.entities[&task("1")], row);
        assert_eq!(snapshot.verdicts[&ops[1].op.op_id].payload_hash, [7; 32]);
        last_wins(snapshot, ops, now)
    };
    store.commit(&[Batch { project: &p, ops: &ops }], 1, &seen).await.unwrap();
}

async fn hostile_text_comes_back_as_it_was(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let fields = json!({
        "nul": "a\u{0}b", "quote": "'\"\\", "emoji": "🧑‍🚀", "big": 9_007_199_254_740_993_i64,
        "null": "null", "object": "{\"x\":1}", "long": "x".repeat(300_000),
    });
    let op = notifying(set("1", "1", fields.clone()), "ben", "ti\u{0}tle");
    commit(&store, &p, &[op]).await.unwrap();
    let row = store.entity(&p, &task("1")).await.unwrap().unwrap();
    assert_eq!(serde_json::Value::Object(row.fields), fields);
    let page = store.page(&p, Seq::ZERO, 10, 10).await.unwrap();
    let logged: serde_json::Value =
        serde_json::from_str(page.entries[0].fields.as_ref().unwrap().get()).unwrap();
    assert_eq!(logged, fields);
    let query = InboxQuery { reads: vec![Reads::all(p)], limit: 1, ..InboxQuery::default() };
    let inbox = store.inbox(&"ben".parse().unwrap(), &query).await.unwrap();
    assert_eq!(inbox[0].title, "ti\u{fffd}tle");
}

/// A commit that is under way, with its position taken, until it is let go.
struct Held {
    leave: mpsc::Sender<()>,
    task: JoinHandle<Result<(), StoreError>>,
}

impl Held {
    async fn commit(store: Store, project: &ProjectId, op: PendingOp) -> Self {
        let (entered, inside) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let left = std::sync::Mutex::new(left);
        let project = project.clone();
        let task = tokio::spawn(async move {
            let plan = |snapshot: &Snapshot, ops: &[PendingOp], now: i64| {
                entered.clone().send(()).unwrap();
                tokio::task::block_in_place(|| left.lock().unwrap().recv().unwrap());
                last_wins(snapshot, ops, now)
            };
            let batch = Batch { project: &project, ops: &[op] };
            store.commit(&[batch], 1, &plan).await.map(|_| ())
        });
        tokio::task::spawn_blocking(move || inside.recv().unwrap()).await.unwrap();
        Self { leave, task }
    }

    async fn let_go(self) {
        self.leave.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

async fn a_lock_held_too_long_is_a_retryable_error(mut site: Site) {
    let holder = site.open().await;
    site.config.lock_timeout = Duration::from_millis(50);
    let hasty: Store = site.open().await;
    let p = project("p");
    commit(&hasty, &p, &[set("a", "1", json!({}))]).await.unwrap();
    let held = Held::commit(holder, &p, set("b", "1", json!({}))).await;

    let error = commit(&hasty, &p, &[set("c", "1", json!({}))]).await.unwrap_err();
    assert!(error.retryable(), "{error}");
    if !hasty.groups_projects() {
        commit(&hasty, &project("other"), &[set("c", "1", json!({}))]).await.unwrap();
    }
    assert_eq!(hasty.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap().head, Seq(1));

    held.let_go().await;
    assert_eq!(commit(&hasty, &p, &[set("c", "1", json!({}))]).await.unwrap().head, Seq(3));
}

/// SQLite has one writer. Positions from a sequence of PostgreSQL's would not do: whoever took 3 could commit
/// before whoever took 2, and a reader who has seen 3 would never look for 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn positions_become_visible_in_their_order() {
    let site = Site::postgres().await;
    let (here, there) = (site.open().await, site.open().await);
    let p = project("p");
    commit(&here, &p, &[set("a", "1", json!({}))]).await.unwrap();
    let first = Held::commit(here.clone(), &p, set("b", "2", json!({}))).await;
    let name = p.clone();
    let second =
        tokio::spawn(async move { commit(&there, &name, &[set("c", "3", json!({}))]).await });

    let mut db = sqlx::PgConnection::connect(&site.config.url).await.unwrap();
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !second.is_finished()
        && !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut db).await.unwrap()
    {
        tokio::task::yield_now().await;
    }
    let visible = async || {
        let page = here.page(&p, Seq::ZERO, 10, u64::MAX).await.unwrap();
        page.entries.iter().map(|entry| entry.seq.0).collect::<Vec<_>>()
    };
    assert_eq!(visible().await, [1], "what comes after the position that is not committed yet");
    first.let_go().await;
    second.await.unwrap().unwrap();
    assert_eq!(visible().await, [1, 2, 3]);
}
