//! A small plan for tests of the store: known operations are repeated, all others win.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use syncline::id::{EntityKey, OpId, ProjectId, Seq};
use syncline::protocol::op::{ChangeKind, Fields, Notify, Op, Outcome};
use syncline::store::{
    Actor, Answer, Audience, Batch, Committed, Draft, Effects, EntityRow, LogEntry, PendingOp,
    Snapshot, Store, StoreError,
};

/// A project's name.
pub(crate) fn project(name: &str) -> ProjectId {
    ProjectId::new(name).unwrap()
}

/// A task's key.
pub(crate) fn task(id: &str) -> EntityKey {
    EntityKey { kind: "task".parse().unwrap(), id: id.parse().unwrap() }
}

/// A create or update of a task.
pub(crate) fn set(op_id: &str, id: &str, fields: serde_json::Value) -> PendingOp {
    pending(op_id, id, ChangeKind::Update, serde_json::from_value(fields).unwrap())
}

/// A delete of a task.
pub(crate) fn delete(op_id: &str, id: &str) -> PendingOp {
    pending(op_id, id, ChangeKind::Delete, Fields::new())
}

/// The operation, with a notification to `user`.
pub(crate) fn notifying(mut op: PendingOp, user: &str, title: &str) -> PendingOp {
    op.op.notify = Some(Notify {
        users: vec![user.parse().unwrap()],
        title: title.into(),
        body: "look".into(),
        link: Some("app://task".into()),
        lane: syncline::protocol::op::Lane::High,
        ..Notify::default()
    });
    op
}

fn pending(op_id: &str, id: &str, kind: ChangeKind, fields: Fields) -> PendingOp {
    let key = task(id);
    let op = Op {
        op_id: op_id.parse().unwrap(),
        kind,
        entity_type: key.kind,
        id: key.id,
        base: Seq::ZERO,
        fields,
        edited_at: None,
        notify: None,
    };
    let actor = Actor { user: "ana".into(), client: "phone".into() };
    PendingOp { op, actor, payload_hash: [7; 32], source: None, upsert: true }
}

/// Commits one project's operations with [`last_wins`].
pub(crate) async fn commit(
    store: &Store,
    project: &ProjectId,
    ops: &[PendingOp],
) -> Result<Committed, StoreError> {
    let batches = [Batch { project, ops }];
    Ok(store.commit(&batches, 1000, &last_wins).await?.remove(0))
}

/// Commits operations one caller sends again until they are answered.
pub(crate) async fn commit_until_answered(
    store: &Store,
    project: &ProjectId,
    ops: &[PendingOp],
) -> Committed {
    loop {
        match commit(store, project, ops).await {
            Ok(committed) => return committed,
            Err(error) => assert!(error.retryable(), "{error}"),
        }
    }
}

/// The plan.
pub(crate) fn last_wins(snapshot: &Snapshot, ops: &[PendingOp], now: i64) -> Effects {
    let mut effects = Effects::default();
    let mut rows: BTreeMap<EntityKey, EntityRow> = BTreeMap::new();
    let mut head = snapshot.head;
    for pending in ops {
        if let Some(known) = snapshot.verdicts.get(&pending.op.op_id) {
            effects.answers.push(Answer::Replayed(known.verdict.clone()));
            continue;
        }
        head = head.next();
        let key = pending.entity();
        let old = rows.get(&key).or_else(|| snapshot.entities.get(&key));
        let row = next_row(old, pending, head);
        effects.entries.push(entry(pending, &key, old, head, now));
        effects.notifications.extend(notifications(&pending.op, head, now));
        effects.answers.push(Answer::New(verdict(&pending.op.op_id, head), Outcome::Applied));
        rows.insert(key, row);
    }
    effects.entities = rows.into_iter().collect();
    effects
}

fn next_row(old: Option<&EntityRow>, pending: &PendingOp, version: Seq) -> EntityRow {
    let deleted = pending.op.kind == ChangeKind::Delete;
    let mut fields = old.map(|row| row.fields.clone()).unwrap_or_default();
    fields.extend(pending.op.fields.clone());
    EntityRow {
        version,
        deleted,
        fields: if deleted { Fields::new() } else { fields },
        writer: pending.actor.client.clone(),
        writer_base: old.map_or(Seq::ZERO, |row| row.version),
        source_versions: BTreeMap::from([("erp".into(), 3)]),
    }
}

fn entry(
    pending: &PendingOp,
    key: &EntityKey,
    old: Option<&EntityRow>,
    seq: Seq,
    at: i64,
) -> LogEntry {
    let op = &pending.op;
    LogEntry {
        seq,
        entity: key.clone(),
        kind: op.kind,
        prev: old.map_or(Seq::ZERO, |row| row.version),
        fields: (op.kind != ChangeKind::Delete).then(|| to_raw_value(&op.fields).unwrap()),
        actor: pending.actor.user.clone(),
        client: pending.actor.client.clone(),
        op_id: op.op_id.clone(),
        at,
    }
}

fn notifications(op: &Op, seq: Seq, now: i64) -> Option<Draft> {
    let notify = op.notify.as_ref()?;
    Some(Draft {
        audience: Audience { users: notify.users.clone(), ..Audience::default() },
        seq,
        title: notify.title.clone(),
        body: notify.body.clone(),
        template: None,
        vars: None,
        data: None,
        link: notify.link.clone(),
        lane: notify.lane,
        collapse: notify.collapse.clone(),
        category: notify.category.clone(),
        schedule: None,
        grace: 60_000,
        ttl: 3_600_000,
        created_at: now,
    })
}

fn verdict(op_id: &OpId, seq: Seq) -> Box<RawValue> {
    // The odd spaces show whether a replay is byte for byte.
    RawValue::from_string(format!(r#"{{ "op_id":"{op_id}",  "seq":{seq} }}"#)).unwrap()
}
