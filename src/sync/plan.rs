//! What becomes of operations: a pure function from a project's state to effects.
//!
//! Called by the store inside the transaction, under the project's lock; it reads no clock and touches
//! nothing. An operation whose `base` is behind the entity is a conflict: the server's state stands and
//! goes back with the verdict. A client's own unbroken run of edits never conflicts with itself, because
//! it cannot know the versions its queued edits will get.

use std::collections::HashMap;

use serde_json::value::to_raw_value;

use super::notify::Notices;
use crate::id::{EntityKey, OpId, Seq};
use crate::protocol::op::{ChangeKind, EntityState, Fields, Outcome, StoredVerdict, Verdict};
use crate::store::{Answer, Effects, EntityRow, LogEntry, PendingOp, Recorded, Snapshot};

/// The code of a `noop` verdict for an event that is not newer than what its source sent before.
pub const STALE: &str = "stale";

/// Decides the operations in order, each on the state the earlier ones leave.
#[must_use]
pub fn plan(snapshot: &Snapshot, ops: &[PendingOp], now_ms: i64, notices: &Notices) -> Effects {
    let mut planner = Planner::new(snapshot, now_ms, notices);
    for op in ops {
        planner.decide(op, None);
    }
    planner.finish()
}

/// Rejects the operations that have no verdict yet, because the database refuses their data.
#[must_use]
pub fn reject(snapshot: &Snapshot, ops: &[PendingOp], now_ms: i64, notices: &Notices) -> Effects {
    let mut planner = Planner::new(snapshot, now_ms, notices);
    for op in ops {
        planner.decide(op, Some(Decision::reject("unstorable", "the store cannot hold this data")));
    }
    planner.finish()
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    now_ms: i64,
    notices: &'a Notices,
    head: Seq,
    /// Entities as they stand after the operations decided so far.
    touched: HashMap<EntityKey, EntityRow>,
    /// Verdicts given in this very group.
    given: HashMap<OpId, Recorded>,
    effects: Effects,
}

enum Decision {
    Write {
        kind: ChangeKind,
        patch: Fields,
        row: EntityRow,
    },
    Noop,
    /// The source has sent a newer version.
    Stale,
    Conflict {
        code: &'static str,
        message: &'static str,
    },
    Reject {
        code: &'static str,
        message: &'static str,
    },
}

impl Decision {
    fn reject(code: &'static str, message: &'static str) -> Self {
        Self::Reject { code, message }
    }
}

impl<'a> Planner<'a> {
    fn new(snapshot: &'a Snapshot, now_ms: i64, notices: &'a Notices) -> Self {
        Self {
            snapshot,
            now_ms,
            notices,
            head: snapshot.head,
            touched: HashMap::new(),
            given: HashMap::new(),
            effects: Effects::default(),
        }
    }

    fn finish(mut self) -> Effects {
        self.effects.entities = self.touched.into_iter().collect();
        self.effects
    }

    fn decide(&mut self, pending: &PendingOp, forced: Option<Decision>) {
        let op_id = &pending.op.op_id;
        if let Some(known) = self.snapshot.verdicts.get(op_id).or_else(|| self.given.get(op_id)) {
            let answer = if known.payload_hash == pending.payload_hash {
                known.verdict.clone()
            } else {
                reused(pending)
            };
            self.effects.answers.push(Answer::Replayed(answer));
            return;
        }
        let key = pending.entity();
        let current = self.touched.get(&key).or_else(|| self.snapshot.entities.get(&key));
        let decision = forced.unwrap_or_else(|| decide(pending, current));
        let verdict = verdict(pending, &decision, current, self.head);
        let outcome = verdict.outcome;
        match (decision, &pending.source, current) {
            (Decision::Write { kind, patch, row }, ..) => {
                let prev = current.map_or(Seq::ZERO, |row| row.version);
                self.write(pending, key, kind, prev, &patch, row);
            }
            // That it changed nothing makes it no older: what the source sent before stays stale.
            (Decision::Noop, Some(source), Some(row)) => {
                let mut row = row.clone();
                row.source_versions.insert(source.source.clone(), source.version);
                self.touched.insert(key, row);
            }
            _ => {}
        }
        let verdict = to_raw_value(&verdict).expect("a verdict has string keys");
        let recorded = Recorded { payload_hash: pending.payload_hash, verdict: verdict.clone() };
        self.given.insert(op_id.clone(), recorded);
        self.effects.answers.push(Answer::New(verdict, outcome));
    }

    fn write(
        &mut self,
        pending: &PendingOp,
        key: EntityKey,
        kind: ChangeKind,
        prev: Seq,
        patch: &Fields,
        mut row: EntityRow,
    ) {
        self.head = self.head.next();
        row.version = self.head;
        let fields = (kind != ChangeKind::Delete)
            .then(|| to_raw_value(patch).expect("fields have string keys"));
        self.effects.entries.push(LogEntry {
            seq: self.head,
            entity: key.clone(),
            kind,
            prev,
            fields,
            actor: pending.actor.user.clone(),
            client: pending.actor.client.clone(),
            op_id: pending.op.op_id.clone(),
            at: self.now_ms,
        });
        let drafts = self.notices.plan(pending, (&key, kind), (patch, &row), self.now_ms);
        self.effects.notifications.extend(drafts);
        self.touched.insert(key, row);
    }
}

fn decide(pending: &PendingOp, current: Option<&EntityRow>) -> Decision {
    let op = &pending.op;
    if let (Some(source), Some(row)) = (&pending.source, current)
        && row.source_versions.get(&source.source).is_some_and(|v| *v >= source.version)
    {
        return Decision::Stale;
    }
    let live = current.filter(|row| !row.deleted);
    let stale = !pending.upsert && current.is_some_and(|row| is_stale(pending, row));
    match (op.kind, live) {
        (ChangeKind::Create, Some(_)) if !pending.upsert => {
            Decision::Conflict { code: "exists", message: "an entity with this id exists already" }
        }
        (ChangeKind::Create, None) if pending.upsert => set(pending, current, None),
        (ChangeKind::Create, None) if stale => Decision::Conflict {
            code: "deleted",
            message: "an entity with this id was deleted; give its version as `base` to create it again",
        },
        (ChangeKind::Create, None) => set(pending, current, None),
        (ChangeKind::Update, None) if current.is_some() => {
            Decision::Conflict { code: "deleted", message: "the entity was deleted meanwhile" }
        }
        (ChangeKind::Update, None) => {
            Decision::reject("not_found", "there is no entity to update; create it first")
        }
        (ChangeKind::Delete, None) => Decision::Noop,
        (_, Some(_)) if stale => Decision::Conflict {
            code: "version",
            message: "the entity changed since `base`; look at `current` and decide again",
        },
        (ChangeKind::Create | ChangeKind::Update, Some(row)) => set(pending, current, Some(row)),
        (ChangeKind::Delete, Some(_)) => Decision::Write {
            kind: ChangeKind::Delete,
            patch: Fields::new(),
            row: next_row(pending, current, Fields::new(), true),
        },
    }
}

/// Whether the operation was made without knowing the entity's latest change by somebody else. A base
/// from a future that the store lost counts as stale too.
fn is_stale(pending: &PendingOp, row: &EntityRow) -> bool {
    let base = pending.op.base;
    let own_run = row.writer == pending.actor.client && base >= row.writer_base;
    base > row.version || (base < row.version && !own_run)
}

fn set(pending: &PendingOp, current: Option<&EntityRow>, live: Option<&EntityRow>) -> Decision {
    let mut fields = live.map_or_else(Fields::new, |row| row.fields.clone());
    let mut patch = Fields::new();
    for (name, value) in &pending.op.fields {
        if live.is_none() || fields.get(name) != Some(value) {
            patch.insert(name.clone(), value.clone());
            fields.insert(name.clone(), value.clone());
        }
    }
    if live.is_some() && patch.is_empty() {
        return Decision::Noop;
    }
    let kind = if live.is_some() { ChangeKind::Update } else { ChangeKind::Create };
    Decision::Write { kind, patch, row: next_row(pending, current, fields, false) }
}

fn next_row(
    pending: &PendingOp,
    current: Option<&EntityRow>,
    fields: Fields,
    deleted: bool,
) -> EntityRow {
    let writer = &pending.actor.client;
    let mut source_versions = current.map(|row| row.source_versions.clone()).unwrap_or_default();
    if let Some(source) = &pending.source {
        source_versions.insert(source.source.clone(), source.version);
    }
    EntityRow {
        version: Seq::ZERO, // set when the change gets its position
        deleted,
        fields,
        writer: writer.clone(),
        writer_base: match current {
            Some(row) if row.writer == *writer => row.writer_base,
            Some(row) => row.version,
            None => Seq::ZERO,
        },
        source_versions,
    }
}

fn verdict(
    pending: &PendingOp,
    decision: &Decision,
    current: Option<&EntityRow>,
    head: Seq,
) -> Verdict {
    let version = current.map(|row| row.version);
    let mut verdict = Verdict {
        op_id: pending.op.op_id.clone(),
        outcome: Outcome::Noop,
        id: pending.op.id.clone(),
        seq: None,
        version,
        code: None,
        message: None,
        current: None,
    };
    let mut because = |code: &str, message: &str| {
        (verdict.code, verdict.message) = (Some(code.to_owned()), Some(message.to_owned()));
    };
    match decision {
        Decision::Write { .. } => {
            verdict.outcome = Outcome::Applied;
            verdict.seq = Some(head.next());
            verdict.version = Some(head.next());
        }
        Decision::Noop => {}
        Decision::Stale => because(STALE, "the source has sent a newer version of the entity"),
        Decision::Conflict { code, message } => {
            because(code, message);
            verdict.outcome = Outcome::Conflict;
            verdict.current = current.map(|row| EntityState {
                version: row.version,
                deleted: row.deleted,
                fields: row.fields.clone(),
            });
        }
        Decision::Reject { code, message } => {
            because(code, message);
            verdict.outcome = Outcome::Rejected;
        }
    }
    verdict
}

/// A verdict about an operation that never reaches the log or the store: it cannot be read, is not
/// allowed, or reuses an `op_id`.
#[must_use]
pub fn rejected(
    op_id: &OpId,
    id: &crate::id::EntityId,
    code: &str,
    message: &str,
) -> StoredVerdict {
    let verdict = Verdict {
        op_id: op_id.clone(),
        outcome: Outcome::Rejected,
        id: id.clone(),
        seq: None,
        version: None,
        code: Some(code.to_owned()),
        message: Some(message.to_owned()),
        current: None,
    };
    to_raw_value(&verdict).expect("a verdict has string keys")
}

fn reused(pending: &PendingOp) -> StoredVerdict {
    rejected(
        &pending.op.op_id,
        &pending.op.id,
        "op_id_reused",
        "this op_id was used for another operation; give each operation its own",
    )
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::id::{Epoch, UserId};
    use crate::store::{Actor, SourceVersion};
    use serde_json::json;
    use sha2::{Digest, Sha256};

    fn notices() -> Notices {
        let roles = crate::auth::Roles::compile(&crate::config::Roles::default()).unwrap();
        Notices::new(&crate::config::Push::default(), &roles, Default::default())
    }

    fn pending(client: &str, op: &serde_json::Value) -> PendingOp {
        PendingOp {
            payload_hash: Sha256::digest(op.to_string()).into(),
            op: serde_json::from_value(op.clone()).unwrap(),
            actor: Actor { user: format!("user of {client}"), client: client.into() },
            source: None,
            upsert: false,
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "calls read better with `json!` in place")]
    fn op(id: &str, kind: &str, base: u64, fields: serde_json::Value) -> serde_json::Value {
        json!({"op_id": id, "kind": kind, "type": "task", "id": "t1", "base": base, "fields": fields})
    }

    /// A store in memory, for the pure function alone.
    struct World(Snapshot);

    impl World {
        fn new() -> Self {
            Self(Snapshot {
                project: "p".parse().unwrap(),
                head: Seq::ZERO,
                epoch: Epoch(Uuid::nil()),
                verdicts: HashMap::new(),
                entities: HashMap::new(),
            })
        }

        fn run(&mut self, ops: &[PendingOp]) -> Vec<Verdict> {
            let effects = plan(&self.0, ops, 1000, &notices());
            assert_eq!(effects.answers.len(), ops.len());
            for entry in &effects.entries {
                assert_eq!(entry.seq, self.0.head.next(), "the log is dense");
                self.0.head = entry.seq;
            }
            self.0.entities.extend(effects.entities);
            for (op, answer) in ops.iter().zip(&effects.answers) {
                if let Answer::New(verdict, _) = answer {
                    let recorded =
                        Recorded { payload_hash: op.payload_hash, verdict: verdict.clone() };
                    assert!(self.0.verdicts.insert(op.op.op_id.clone(), recorded).is_none());
                }
            }
            let read = |a: &Answer| serde_json::from_str(a.verdict().get()).unwrap();
            effects.answers.iter().map(read).collect()
        }

        fn one(&mut self, client: &str, op: &serde_json::Value) -> Verdict {
            self.run(&[pending(client, op)]).remove(0)
        }
    }

    #[test]
    fn a_write_behind_another_clients_change_is_a_conflict_with_the_current_state() {
        let mut world = World::new();
        world.one("a", &op("1", "create", 0, json!({"title": "x", "done": false})));
        assert_eq!(
            world.one("b", &op("2", "update", 1, json!({"title": "y"}))).version,
            Some(Seq(2))
        );
        let verdict = world.one("a", &op("3", "update", 1, json!({"done": true})));
        assert_eq!(verdict.outcome, Outcome::Conflict);
        let current = verdict.current.unwrap();
        assert_eq!(current.version, Seq(2));
        assert_eq!(json!(current.fields), json!({"title": "y", "done": false}));
        let verdict = world.one("a", &op("4", "delete", 1, json!({})));
        assert_eq!(verdict.outcome, Outcome::Conflict);
        let verdict = world.one("a", &op("5", "update", 9, json!({"title": "z"})));
        assert_eq!(verdict.outcome, Outcome::Conflict, "a base from a lost future");
    }

    #[test]
    fn a_clients_queued_edits_do_not_conflict_with_each_other() {
        let mut world = World::new();
        let verdicts = world.run(&[
            pending("a", &op("1", "create", 0, json!({"n": 1}))),
            pending("a", &op("2", "update", 0, json!({"n": 2}))),
            pending("a", &op("3", "update", 0, json!({"n": 3}))),
        ]);
        assert!(verdicts.iter().all(|v| v.outcome == Outcome::Applied), "{verdicts:?}");
        world.one("b", &op("4", "update", 3, json!({"n": 4})));
        assert_eq!(
            world.one("a", &op("5", "update", 4, json!({"n": 5}))).outcome,
            Outcome::Applied
        );
        assert_eq!(
            world.one("a", &op("6", "update", 3, json!({"n": 6}))).outcome,
            Outcome::Conflict,
            "it was made without b's change"
        );
    }

    #[test]
    fn a_retry_gets_the_same_bytes_and_a_reused_id_is_refused() {
        let mut world = World::new();
        let create = pending("a", &op("1", "create", 0, json!({"n": 1})));
        let first = plan(&world.0, std::slice::from_ref(&create), 1000, &notices());
        world.run(std::slice::from_ref(&create));
        let again = plan(&world.0, &[create.clone(), create.clone()], 2000, &notices());
        for answer in &again.answers {
            assert!(
                matches!(answer, Answer::Replayed(v) if v.get() == first.answers[0].verdict().get())
            );
        }
        assert!(again.entries.is_empty() && again.entities.is_empty());
        let verdict = world.one("a", &op("1", "create", 0, json!({"n": 2})));
        assert_eq!(verdict.code.as_deref(), Some("op_id_reused"));
        // The same id twice within one group has one effect, too.
        let twice = pending("a", &op("7", "update", 1, json!({"n": 7})));
        let effects = plan(&world.0, &[twice.clone(), twice], 1000, &notices());
        assert_eq!(effects.entries.len(), 1);
    }

    #[test]
    fn creates_and_deletes_have_conflicts_of_their_own() {
        let mut world = World::new();
        assert_eq!(
            world.one("a", &op("0", "update", 0, json!({"n": 1}))).code.as_deref(),
            Some("not_found")
        );
        assert_eq!(world.one("a", &op("1", "delete", 0, json!({}))).outcome, Outcome::Noop);
        world.one("a", &op("2", "create", 0, json!({"n": 1})));
        assert_eq!(
            world.one("b", &op("3", "create", 0, json!({"n": 2}))).code.as_deref(),
            Some("exists")
        );
        assert_eq!(world.one("b", &op("4", "delete", 1, json!({}))).seq, Some(Seq(2)));
        let verdict = world.one("a", &op("5", "update", 1, json!({"n": 3})));
        assert_eq!(verdict.code.as_deref(), Some("deleted"));
        assert!(verdict.current.unwrap().deleted);
        assert_eq!(
            world.one("a", &op("6", "create", 0, json!({}))).code.as_deref(),
            Some("deleted")
        );
        assert_eq!(world.one("a", &op("7", "create", 2, json!({"n": 9}))).seq, Some(Seq(3)));
    }

    #[test]
    fn an_update_logs_only_what_changed_and_nothing_when_nothing_does() {
        let mut world = World::new();
        world.one("a", &op("1", "create", 0, json!({"a": 1, "b": null})));
        let same = pending("b", &op("2", "update", 1, json!({"a": 1, "b": null})));
        assert_eq!(world.run(&[same])[0].outcome, Outcome::Noop);
        let effects = plan(
            &world.0,
            &[pending("b", &op("3", "update", 1, json!({"a": 1, "b": 2})))],
            1,
            &notices(),
        );
        assert_eq!(effects.entries[0].fields.as_ref().unwrap().get(), r#"{"b":2}"#);
    }

    #[test]
    fn an_upsert_ignores_base_but_not_its_sources_version() {
        let mut world = World::new();
        let event = |id: &str, version, n: i32| PendingOp {
            upsert: true,
            source: Some(SourceVersion { source: "erp".into(), version }),
            ..pending("erp", &op(id, "create", 0, json!({"n": n})))
        };
        assert_eq!(world.run(&[event("1", 5, 1)])[0].outcome, Outcome::Applied);
        world.one("a", &op("2", "update", 1, json!({"n": 2})));
        assert_eq!(world.run(&[event("3", 5, 3)])[0].outcome, Outcome::Noop, "an old event");
        assert_eq!(world.run(&[event("4", 6, 4)])[0].outcome, Outcome::Applied);
        assert_eq!(world.0.entities.values().next().unwrap().fields["n"], 4);
        assert_eq!(world.run(&[event("5", 8, 4)])[0].code, None, "newer, and nothing to change");
        assert_eq!(world.run(&[event("6", 7, 3)])[0].code.as_deref(), Some(STALE));
    }

    #[test]
    fn a_backends_patch_needs_an_entity() {
        let mut world = World::new();
        let patch = |id: &str| PendingOp {
            upsert: true,
            ..pending("erp", &op(id, "update", 0, json!({"n": 1})))
        };
        assert_eq!(world.run(&[patch("1")])[0].code.as_deref(), Some("not_found"));
        world.one("a", &op("2", "create", 0, json!({})));
        world.one("b", &op("3", "update", 1, json!({"m": 2})));
        assert_eq!(world.run(&[patch("4")])[0].outcome, Outcome::Applied, "whatever the version");
    }

    #[test]
    fn recipients_hear_once_and_the_actor_never() {
        let world = World::new();
        let mut op = op("1", "create", 0, json!({"n": 1}));
        op["notify"] =
            json!({"users": ["bo", "user of a", "bo", "cy"], "title": "t", "lane": "high"});
        let effects = plan(&world.0, &[pending("a", &op)], 1000, &notices());
        let [draft] = &effects.notifications[..] else { panic!("one draft") };
        let users: Vec<_> = draft.audience.users.iter().map(UserId::as_str).collect();
        assert_eq!((users, draft.audience.actor.as_str()), (vec!["bo", "cy"], "user of a"));
        assert_eq!((draft.grace, draft.seq), (1500, Seq(1)));
    }
}
