//! The failed lane, the log of requests and what the status tells of them.

use std::time::Duration;

use serde_json::json;
use syncline::clock;
use syncline::config::{self, Config};
use syncline::id::{OpId, ProjectId, Seq};
use syncline::protocol::op::{Op, Outcome};
use syncline::store::{
    Actor, Answer, Backlog, Batch, Committed, LaneOp, LaneQuery, Outcomes, PendingOp, Refused,
    Store, SyncLogQuery, SyncRecord,
};
use syncline::sync::plan;
use syncline::sync::retention::{Counts, Retention};
use syncline::telemetry::{Metrics, Purged};
use tokio_util::sync::CancellationToken;

use crate::support::plan::{ack, project, rules};
use crate::support::site::Site;

on_both_engines!(
    what_was_rejected_is_kept_as_it_was_sent,
    a_retry_keeps_its_place_until_it_succeeds,
    two_retries_at_once_apply_an_operation_once,
    what_was_cleared_stays_out_and_keeps_its_verdict,
    an_older_binarys_rows_are_in_the_lane_too,
    the_oldest_of_a_lane_with_too_many_leave_it,
    the_log_of_requests_is_paged_by_user,
    a_status_tells_heads_failures_conflicts_and_devices,
);

const NOW: i64 = 1_764_000_000_000;

/// A create by `user`, rejected for its role unless `fit`.
fn create(user: &str, op_id: &str, fit: bool) -> PendingOp {
    let op = json!({
        "op_id": op_id, "kind": "create", "type": "task", "id": format!("of-{op_id}"),
        "fields": { "n": 1 },
    });
    let op: Op = serde_json::from_value(op).unwrap();
    let actor = Actor { user: user.into(), client: format!("phone-of-{user}") };
    let refused = Refused { code: "forbidden", message: "not you".into() };
    let mut pending = PendingOp::new(op, actor, [7; 32]);
    pending.access.role = "viewer".into();
    pending.edited_at = Some(NOW - 5000);
    pending.refused = (!fit).then_some(refused);
    pending
}

fn again(op: PendingOp) -> PendingOp {
    PendingOp { retry: true, ..op }
}

async fn commit_at(store: &Store, project: &ProjectId, ops: &[PendingOp], now: i64) -> Committed {
    let rules = rules(&Config::default());
    let decide = |s: &_, ops: &[PendingOp], now| plan::plan(s, ops, now, &rules);
    loop {
        match store.commit(&[Batch { project, ops }], now, &decide).await {
            Ok(mut committed) => return committed.remove(0),
            Err(error) => assert!(error.retryable(), "{error}"),
        }
    }
}

async fn lane(store: &Store, project: &ProjectId, user: Option<&str>) -> Vec<LaneOp> {
    store.failed(project, &LaneQuery { user, limit: 100, ..LaneQuery::default() }).await.unwrap()
}

fn names(ops: &[LaneOp]) -> Vec<&str> {
    ops.iter().map(|op| op.op_id.as_str()).collect()
}

async fn what_was_rejected_is_kept_as_it_was_sent(site: Site) {
    let store = site.open().await;
    let p = project("p");
    // Not in the order of their names: the lane has the order of the decisions.
    let sent = [
        create("ana", "z", false),
        create("ana", "a", false),
        create("ben", "m", false),
        create("ana", "ok", true),
    ];
    commit_at(&store, &p, &sent, NOW).await;
    // Nor of the instances' clocks.
    commit_at(&store, &p, &[create("ana", "0", false)], NOW - 1).await;
    commit_at(&store, &project("q"), &[create("ana", "z", false)], NOW).await;

    assert_eq!(names(&lane(&store, &p, Some("ana")).await), ["z", "a", "0"]);
    assert_eq!(names(&lane(&store, &p, None).await), ["z", "a", "m", "0"]);
    let first = lane(&store, &p, Some("ana")).await.remove(0);
    let op: Op = serde_json::from_str(first.op.as_ref().unwrap().get()).unwrap();
    assert_eq!(op, sent[0].op);
    assert_eq!((&*first.client, &*first.role), ("phone-of-ana", "viewer"));
    assert_eq!((first.payload_hash, first.edited_at), ([7; 32], Some(NOW - 5000)));
    assert_eq!((first.attempts, first.at, first.outcome), (1, NOW, Outcome::Rejected));
    assert!(first.verdict.get().contains("not you"), "{}", first.verdict);

    // Page by page, the same.
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let query = LaneQuery { user: Some("ana"), after: after.as_ref(), limit: 2, op_ids: None };
        let page = store.failed(&p, &query).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.place.clone());
        paged.extend(page);
    }
    assert_eq!(names(&paged), ["z", "a", "0"]);
    // By name: also what is not in the lane, but nobody else's.
    let named = ["m", "ok", "a"].map(|id| OpId::new(id).unwrap());
    let query = LaneQuery { user: Some("ana"), op_ids: Some(&named), after: None, limit: 10 };
    let found = store.failed(&p, &query).await.unwrap();
    let found: Vec<_> = found.iter().map(|op| (op.op_id.as_str(), op.op.is_some())).collect();
    assert_eq!(found.len(), 2);
    assert!(found.contains(&("a", true)) && found.contains(&("ok", false)), "{found:?}");
}

async fn a_retry_keeps_its_place_until_it_succeeds(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let sent = ["b", "a", "c"].map(|op_id| create("ana", op_id, false));
    commit_at(&store, &p, &sent, NOW).await;
    let rejected = commit_at(&store, &p, &[again(sent[0].clone())], NOW + 9).await;
    assert!(matches!(&rejected.answers[0], Answer::New(given) if given.again));
    let ops = lane(&store, &p, Some("ana")).await;
    assert_eq!(names(&ops), ["b", "a", "c"]);
    assert_eq!((ops[0].attempts, ops[0].at), (2, NOW + 9));

    let applied = commit_at(&store, &p, &[again(create("ana", "a", true))], NOW + 10).await;
    assert_eq!((applied.entries.len(), applied.head), (1, Seq(1)));
    assert_eq!(names(&lane(&store, &p, Some("ana")).await), ["b", "c"]);
    // Sent again, whichever way, it has its new verdict.
    for op in [create("ana", "a", true), again(create("ana", "a", true))] {
        let known = commit_at(&store, &p, &[op], NOW + 11).await;
        assert!(matches!(known.answers[0], Answer::Replayed(_)) && known.entries.is_empty());
        assert_eq!(known.answers[0].verdict().get(), applied.answers[0].verdict().get());
    }
}

async fn two_retries_at_once_apply_an_operation_once(site: Site) {
    let stores = [site.open().await, site.open().await];
    let p = project("p");
    let sent: Vec<_> = (0..20).map(|n| create("ana", &format!("o{n}"), false)).collect();
    commit_at(&stores[0], &p, &sent, NOW).await;
    let fit: Vec<_> = (0..20).map(|n| again(create("ana", &format!("o{n}"), true))).collect();
    let (one, two) =
        tokio::join!(commit_at(&stores[0], &p, &fit, NOW), commit_at(&stores[1], &p, &fit, NOW));
    assert_eq!(one.entries.len() + two.entries.len(), 20);
    for (one, two) in one.answers.iter().zip(&two.answers) {
        assert_eq!(one.verdict().get(), two.verdict().get());
    }
    assert_eq!((one.head, two.head), (Seq(20), Seq(20)));
    assert!(lane(&stores[0], &p, None).await.is_empty());
}

async fn what_was_cleared_stays_out_and_keeps_its_verdict(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let sent = ["a", "b", "c"].map(|op_id| create("ana", op_id, false));
    let first = commit_at(&store, &p, &sent, NOW).await;
    commit_at(&store, &p, &[create("ben", "d", false)], NOW).await;

    let named = ["a", "d", "none"].map(|id| OpId::new(id).unwrap());
    assert_eq!(store.clear_failed(&p, "ana", Some(&named)).await.unwrap(), 1, "not ben's");
    assert_eq!(names(&lane(&store, &p, None).await), ["b", "c", "d"]);
    let known = commit_at(&store, &p, &sent[..1], NOW).await;
    assert_eq!(known.answers[0].verdict().get(), first.answers[0].verdict().get());

    // A retry that was under way when it was cleared, and fails, does not bring it back.
    commit_at(&store, &p, &[again(sent[0].clone())], NOW + 1).await;
    assert_eq!(names(&lane(&store, &p, None).await), ["b", "c", "d"]);

    assert_eq!(store.clear_failed(&p, "ana", None).await.unwrap(), 2);
    assert_eq!(names(&lane(&store, &p, None).await), ["d"]);
    assert_eq!(store.clear_failed(&p, "ana", None).await.unwrap(), 0);
    assert_eq!(store.clear_failed(&project("none"), "ana", None).await.unwrap(), 0);
}

async fn an_older_binarys_rows_are_in_the_lane_too(site: Site) {
    let store = site.open().await;
    let p = project("p");
    commit_at(&store, &p, &["b", "a"].map(|op_id| create("ana", op_id, false)), NOW).await;
    site.run("UPDATE sync_queue SET lane = NULL, role = '', edited_at = NULL WHERE op_id = 'a'")
        .await;
    commit_at(&store, &p, &[create("ana", "0", false)], NOW + 1).await;
    assert_eq!(names(&lane(&store, &p, Some("ana")).await), ["a", "b", "0"]);
    // Tried again, it stays where it was.
    commit_at(&store, &p, &[again(create("ana", "a", false))], NOW + 50).await;
    assert_eq!(names(&lane(&store, &p, Some("ana")).await), ["a", "b", "0"]);
}

async fn the_oldest_of_a_lane_with_too_many_leave_it(site: Site) {
    let store = site.open().await;
    let (p, q) = (project("p"), project("q"));
    let sent: Vec<_> = (0..10).map(|n| create("ana", &format!("o{n}"), false)).collect();
    let first = commit_at(&store, &p, &sent, clock::now_ms()).await;
    for (project, user, ops) in [(&p, "ben", 3), (&q, "ana", 5)] {
        let ops: Vec<_> = (0..ops).map(|n| create(user, &format!("{user}{n}"), false)).collect();
        commit_at(&store, project, &ops, clock::now_ms()).await;
    }
    assert_eq!(store.backlog().await.unwrap().failed, 18);

    let config = config::Retention { failed_ops: 3, batch: 2, ..Default::default() };
    let retention =
        Retention::new(store.clone(), "test".into(), config, Duration::MAX, Metrics::new());
    let of_lane = |counts: Counts| {
        counts.into_iter().find_map(|(what, n)| (what == Purged::FailedOps).then_some(n)).unwrap()
    };
    assert_eq!(of_lane(retention.look().await.unwrap()), 9);
    let stop = CancellationToken::new();
    assert_eq!(of_lane(retention.purge(&stop).await.unwrap().unwrap()), 9);
    assert_eq!(names(&lane(&store, &p, Some("ana")).await), ["o7", "o8", "o9"]);
    assert_eq!(lane(&store, &p, Some("ben")).await.len(), 3);
    assert_eq!(names(&lane(&store, &q, None).await), ["ana2", "ana3", "ana4"]);
    assert_eq!(store.backlog().await.unwrap().failed, 9);
    assert_eq!(of_lane(retention.purge(&stop).await.unwrap().unwrap()), 0);

    // The verdict stays, for the operation sent again and for a retry.
    let again = [create("ana", "o0", true), again(create("ana", "o1", false))];
    let known = commit_at(&store, &p, &again, clock::now_ms()).await;
    assert_eq!(known.answers[0].verdict().get(), first.answers[0].verdict().get());
    assert_eq!(names(&lane(&store, &p, Some("ana")).await), ["o7", "o8", "o9"]);
}

fn record(id: u32, user: &str, device: Option<&str>) -> SyncRecord {
    let outcomes = Outcomes { applied: 2, rejected: 1, ..Outcomes::default() };
    SyncRecord {
        project: "p".into(),
        id: format!("{id:04}"),
        kind: "write".into(),
        user: user.into(),
        client: "phone".into(),
        device: device.map(str::to_owned),
        ops: 3,
        bytes: 100,
        outcomes,
        duration_ms: 4,
        result: "ok".into(),
        at: NOW + i64::from(id),
    }
}

async fn the_log_of_requests_is_paged_by_user(site: Site) {
    let store = site.open().await;
    let p = project("p");
    let records: Vec<_> =
        (0..5).map(|n| record(n, if n % 2 == 0 { "ana" } else { "ben" }, None)).collect();
    store.add_to_sync_log(&records).await.unwrap();
    store.add_to_sync_log(&[record(9, "ana", Some("d1")), records[0].clone()]).await.unwrap();

    let list = async |user, before, limit| {
        let log = store.sync_log(&p, SyncLogQuery { user, before, limit }).await.unwrap();
        log.into_iter().map(|record| record.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 10).await, ["0009", "0004", "0003", "0002", "0001", "0000"]);
    assert_eq!(list(Some("ana"), None, 2).await, ["0009", "0004"]);
    assert_eq!(list(Some("ana"), Some("0004"), 2).await, ["0002", "0000"]);
    let query = SyncLogQuery { user: Some("ana"), before: None, limit: 1 };
    assert_eq!(store.sync_log(&p, query).await.unwrap(), [record(9, "ana", Some("d1"))]);
}

async fn a_status_tells_heads_failures_conflicts_and_devices(site: Site) {
    let store = site.open().await;
    let (p, q) = (project("p"), project("never-written"));
    let ops = [create("ana", "1", true), create("ana", "2", false), create("ben", "3", false)];
    let committed = commit_at(&store, &p, &ops, NOW).await;
    commit_at(&store, &p, &[create("ana", "4", true), create("ana", "5", false)], NOW + 7).await;
    store.add_to_sync_log(&[record(1, "ana", None), record(2, "ben", None)]).await.unwrap();
    for (user, client, seq, at) in [
        ("ana", "phone", 1, NOW),
        ("ana", "laptop", 2, NOW + 1),
        ("ana", "", 2, NOW + 2),
        ("ben", "phone", 1, NOW),
    ] {
        ack(&store, ("p", user, client), seq, true, at).await;
    }
    site.run(
        "INSERT INTO conflict_log (project, id, user_id, client, op_id, type, entity_id, kind,
             op_kind, strategy, outcome, state, base, server_version, fields, created_at)
         VALUES ('p', '1', 'ana', 'c', 'o', 'task', 't', 'fields', 'update', 'manual', 'conflict',
                 'open', 1, 1, '[]', 1),
                ('p', '2', 'ana', 'c', 'o', 'task', 't', 'fields', 'update', 'manual', 'applied',
                 'resolved', 1, 1, '[]', 1)",
    )
    .await;

    let status = store.sync_status(&[q.clone(), p.clone()], Some("ana")).await.unwrap();
    assert_eq!(status[0].project, q);
    assert_eq!((status[0].epoch, status[0].head, status[0].failed), (None, Seq::ZERO, 0));
    let of_p = &status[1];
    assert_eq!((of_p.epoch, of_p.head), (Some(committed.epoch), Seq(2)));
    assert_eq!((of_p.failed, of_p.oldest_failed, of_p.open_conflicts), (2, Some(NOW), 1));
    assert_eq!(of_p.last_batch, Some(record(1, "ana", None)));
    let devices: Vec<_> =
        of_p.devices.iter().map(|d| (&*d.client, d.acked, d.behind, d.last_seen)).collect();
    assert_eq!(devices, [("laptop", Seq(2), 0, NOW + 1), ("phone", Seq(1), 1, NOW)]);

    assert_eq!(store.backlog().await.unwrap(), Backlog { failed: 3, open_conflicts: 1 });
    let all = store.sync_status(&[p], None).await.unwrap().remove(0);
    assert_eq!((all.failed, all.open_conflicts, all.devices.len()), (3, 1, 0));
    assert_eq!(all.last_batch, Some(record(2, "ben", None)));
}
