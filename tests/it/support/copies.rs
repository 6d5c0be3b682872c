//! The end of a run of model clients: the store read in every way, and each client's copy beside it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use syncline::id::{ProjectId, Seq};
use syncline::protocol::conflict::Conflict;
use syncline::store::{ConflictQuery, DeltaRow, LogEntry, Store};

use super::audit::{audit, same};
use super::crowd::PROJECT;
use super::device::{Device, Key, Row};

/// One page of a delta, as it stands on the wire.
pub(crate) async fn delta(store: &Store, project: &ProjectId, after: Seq, limit: u32) -> Value {
    let page = store.delta(project, after, limit, 1 << 20).await.unwrap();
    let row = |row: &DeltaRow| {
        json!({ "entity": { "type": row.key.kind, "id": row.key.id }, "version": row.version,
            "deleted": row.deleted, "fields": row.fields })
    };
    let last = page.rows.last().map_or(page.head, |row| row.version);
    let rows: Vec<_> = page.rows.iter().map(row).collect();
    json!({ "changes": rows, "next": last, "more": last < page.head })
}

async fn conflict_log(store: &Store, project: &ProjectId) -> Vec<Conflict> {
    let mut all: Vec<Conflict> = Vec::new();
    loop {
        let before = all.last().map(|conflict| conflict.id);
        let bytes = usize::MAX;
        let query = ConflictQuery { before, limit: 200, bytes, ..ConflictQuery::default() };
        let page = store.conflicts(project, &query).await.unwrap();
        all.extend(page.conflicts);
        if page.next.is_none() {
            return all;
        }
    }
}

/// All copies are the store, by whichever way it is read, and all that was said is true.
pub(crate) async fn verify(devices: &[Device], store: &Store, log: &[LogEntry]) {
    let project = PROJECT.parse().unwrap();
    let conflicts = conflict_log(store, &project).await;
    let replayed = audit(devices, log, &conflicts);
    let mut fresh = Device::new(0, 1, 0);
    let mut after = Seq(0);
    loop {
        let page = delta(store, &project, after, 50).await;
        fresh.take_page(&page);
        after = Seq(page["next"].as_u64().unwrap());
        if page["more"] == false {
            break;
        }
    }
    let whole: &BTreeMap<Key, Row> = &fresh.rows;
    assert!(*whole == replayed, "a delta from 0 is not what the log leads to");
    same(devices, whole);
    let open =
        conflicts.iter().filter(|c| c.resolved_at.is_none() && c.outcome.as_str() == "conflict");
    assert_eq!(open.count(), 0, "a conflict was never resolved");
    let (decided, outcomes) = tally(devices);
    println!("{} changes of {decided} operations: {outcomes:?}", log.len());
}

fn tally(devices: &[Device]) -> (usize, BTreeMap<String, usize>) {
    let mut outcomes = BTreeMap::new();
    let decided = devices.iter().flat_map(|device| &device.decided);
    for (_, verdict) in decided.clone() {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        let code = verdict["code"].as_str().unwrap_or("");
        let outcome = format!("{} {code}", verdict["outcome"].as_str().unwrap());
        *outcomes.entry(outcome.trim().to_owned()).or_default() += 1;
    }
    (decided.count(), outcomes)
}
