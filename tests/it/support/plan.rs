//! A small plan for tests of the store: known operations are repeated, all others win.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::{RawValue, to_raw_value};
use syncline::auth::Roles;
use syncline::config::Config;
use syncline::id::{EntityKey, EntityRef, OpId, ProjectId, Seq};
use syncline::protocol::op::{ChangeKind, Fields, Notify, Op, OpKind, Outcome};
use syncline::store::push::Ack;
use syncline::store::{
    Actor, Answer, Audience, Batch, Committed, Draft, Effects, EntityRow, Given, LogEntry,
    PendingOp, Snapshot, Stamp, Stamps, Store, StoreError,
};
use syncline::sync::notify::Notices;
use syncline::sync::rules::Rules;

/// A project's name.
pub(crate) fn project(name: &str) -> ProjectId {
    ProjectId::new(name).unwrap()
}

/// A task's key.
pub(crate) fn task(id: &str) -> EntityKey {
    EntityKey { kind: "task".parse().unwrap(), id: id.parse().unwrap() }
}

/// Somebody has come so far in a project, on an installation; with the app in the foreground they have seen it.
pub(crate) fn acked((project, user, client): (&str, &str, &str), seq: u64, active: bool) -> Ack {
    let seq = Some(Seq(seq));
    let (seen, stored) = if active { (seq, None) } else { (None, seq) };
    let (project, user) = (project.parse().unwrap(), user.parse().unwrap());
    Ack { project, user, client: client.parse().ok(), seen, stored }
}

/// The store is told so; returns how many pushes that canceled.
pub(crate) async fn ack(
    store: &Store,
    who: (&str, &str, &str),
    seq: u64,
    active: bool,
    at: i64,
) -> u64 {
    store.acknowledge(&[acked(who, seq, active)], at).await.unwrap().total()
}

/// A create or update of a task.
pub(crate) fn set(op_id: &str, id: &str, fields: serde_json::Value) -> PendingOp {
    pending(op_id, id, OpKind::Update, &serde_json::from_value(fields).unwrap())
}

/// A delete of a task.
pub(crate) fn delete(op_id: &str, id: &str) -> PendingOp {
    pending(op_id, id, OpKind::Delete, &Fields::new())
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

fn pending(op_id: &str, id: &str, kind: OpKind, fields: &Fields) -> PendingOp {
    let key = task(id);
    let op = serde_json::json!({
        "op_id": op_id, "kind": kind, "type": key.kind, "id": key.id, "fields": fields,
    });
    let actor = Actor { user: "ana".into(), client: "phone".into() };
    let op: Op = serde_json::from_value(op).unwrap();
    PendingOp { upsert: true, ..PendingOp::new(op, actor, [7; 32]) }
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
        let kind = pending.op.entity_type.clone();
        let key = EntityKey { kind, ..task(pending.op.id.as_str()) };
        let old = rows.get(&key).or_else(|| snapshot.entities.get(&key));
        let row = next_row(old, pending, head);
        effects.entries.push(entry(pending, &key, old, head, now));
        effects.notifications.extend(notifications(&pending.op, head, now));
        effects.answers.push(Answer::New(Given {
            verdict: verdict(&pending.op.op_id, head),
            outcome: Outcome::Applied,
            code: None,
            id: EntityRef::Id(key.id.clone()),
            again: false,
        }));
        rows.insert(key, row);
    }
    effects.entities = rows.into_iter().collect();
    effects
}

fn next_row(old: Option<&EntityRow>, pending: &PendingOp, version: Seq) -> EntityRow {
    let deleted = pending.op.kind == OpKind::Delete;
    let mut fields = old.map(|row| row.fields.clone()).unwrap_or_default();
    fields.extend(pending.op.fields.clone());
    EntityRow {
        version,
        deleted,
        fields: if deleted { Fields::new() } else { fields.clone() },
        buried: if deleted { fields.clone() } else { Fields::new() },
        stamps: Stamps::whole(Stamp::new(version, &pending.actor, pending.op.op_id.as_str(), 1000)),
        source_versions: BTreeMap::from([("erp".into(), 3)]),
        bytes: serde_json::to_string(&fields).unwrap().len(),
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
    let deleted = op.kind == OpKind::Delete;
    LogEntry {
        seq,
        entity: key.clone(),
        kind: if deleted { ChangeKind::Delete } else { ChangeKind::Update },
        prev: old.map_or(Seq::ZERO, |row| row.version),
        fields: (!deleted).then(|| to_raw_value(&op.fields).unwrap()),
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
        about: op.entity_type.clone(),
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

/// The rules of a configuration, without templates.
pub(crate) fn rules(config: &Config) -> Rules {
    let roles = Roles::compile(&config.roles).unwrap();
    Rules::new(config, Notices::new(&config.push, &roles, Arc::default()))
}
