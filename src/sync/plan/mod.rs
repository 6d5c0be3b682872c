//! What becomes of operations: a pure function from a project's state to effects.
//!
//! Called by the store inside the transaction, under the project's lock; it touches nothing, and reads no clock
//! but to make new ids. Each operation gets one verdict and each verdict one place to be decided: `decide` looks at
//! what is there, `conflict` at what two sides did to the same, [`super::merge`] at a single field, `resolve` at
//! what a user says to a conflict.
//! Here the decisions become effects, in order, each on the state the earlier ones leave; `group` sees to it
//! that the operations of a group take effect together or not at all.

use std::collections::HashMap;

use serde_json::value::to_raw_value;

use super::rules::Rules;
use crate::id::{ConflictId, EntityId, EntityKey, EntityRef, OpId, Seq};
use crate::protocol::op::{ChangeKind, Fields, Outcome, Verdict};
use crate::store::{
    Answer, Effects, EntityRow, Given, LocalName, LogEntry, Parked, PendingOp, Recorded, Refused,
    Snapshot, Stamp,
};

mod change;
mod conflict;
mod decide;
mod entry;
mod group;
mod identity;
mod overrule;
mod resolve;
mod verdict;

use change::{Write, edited_at, next_row};
use group::Course;
pub(super) use identity::local_id;
pub use verdict::rejected;
use verdict::{reused, verdict};

/// The code of a `noop` verdict for an event that is not newer than what its source sent before.
pub const STALE: &str = "stale";

/// Decides the operations in order.
#[must_use]
pub fn plan(snapshot: &Snapshot, ops: &[PendingOp], now_ms: i64, rules: &Rules) -> Effects {
    let mut planner = Planner::new(snapshot, now_ms, rules);
    for unit in units(ops) {
        planner.unit(unit);
    }
    planner.finish()
}

/// Rejects the operations that have no verdict yet, because the database refuses their data.
#[must_use]
pub fn reject(snapshot: &Snapshot, ops: &[PendingOp], now_ms: i64, rules: &Rules) -> Effects {
    let mut planner = Planner::new(snapshot, now_ms, rules);
    let message = "the store cannot hold this data".into();
    let course = Course::Rejected(Refused { code: "unstorable", message });
    for op in ops {
        planner.op(op, &course);
    }
    planner.finish()
}

/// The operations that take effect together: groups, and single ones.
pub fn units(ops: &[PendingOp]) -> impl Iterator<Item = &[PendingOp]> {
    ops.chunk_by(|_, next| next.joined)
}

/// What an operation does, before it has a position in the log.
#[derive(Debug)]
struct Decision {
    outcome: Outcome,
    write: Option<Write>,
    because: Option<Refused>,
    /// The operation's fields as they are now, for `merged`.
    fields: Option<Fields>,
    /// Whether the verdict shows the entity.
    shown: bool,
    conflict: Option<Parked>,
}

impl Decision {
    fn new(outcome: Outcome) -> Self {
        let (write, because, fields, conflict) = (None, None, None, None);
        Self { outcome, write, because, fields, shown: false, conflict }
    }

    fn write(kind: ChangeKind, patch: Fields) -> Self {
        Self { write: Some(Write::new(kind, patch)), ..Self::new(Outcome::Applied) }
    }

    fn because(mut self, code: &'static str, message: impl Into<String>) -> Self {
        self.because = Some(Refused { code, message: message.into() });
        self
    }

    fn reject(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Outcome::Rejected).because(code, message)
    }

    fn showing(self) -> Self {
        Self { shown: true, ..self }
    }
}

/// What the operations decided so far have done.
struct State {
    head: Seq,
    touched: HashMap<EntityKey, EntityRow>,
    given: HashMap<OpId, Recorded>,
    mapped: HashMap<LocalName, EntityId>,
    conflicts: HashMap<ConflictId, Parked>,
    effects: Effects,
}

impl State {
    fn at(head: Seq) -> Self {
        Self {
            head,
            touched: HashMap::new(),
            given: HashMap::new(),
            mapped: HashMap::new(),
            conflicts: HashMap::new(),
            effects: Effects::default(),
        }
    }

    fn absorb(&mut self, group: Self) {
        self.head = group.head;
        self.touched.extend(group.touched);
        self.given.extend(group.given);
        self.mapped.extend(group.mapped);
        self.conflicts.extend(group.conflicts);
        self.effects.answers.extend(group.effects.answers);
        self.effects.entries.extend(group.effects.entries);
        self.effects.notifications.extend(group.effects.notifications);
        self.effects.replaced.extend(group.effects.replaced);
    }
}

struct Planner<'a> {
    snapshot: &'a Snapshot,
    rules: &'a Rules,
    now_ms: i64,
    done: State,
    /// What the group being decided has done; it sees this and [`Self::done`].
    group: Option<State>,
}

impl<'a> Planner<'a> {
    fn new(snapshot: &'a Snapshot, now_ms: i64, rules: &'a Rules) -> Self {
        Self { snapshot, rules, now_ms, done: State::at(snapshot.head), group: None }
    }

    fn finish(self) -> Effects {
        let State { touched, mapped, conflicts, mut effects, .. } = self.done;
        effects.entities = touched.into_iter().collect();
        effects.mappings = mapped.into_iter().collect();
        effects.conflicts = conflicts.into_values().collect();
        effects
    }

    fn state(&mut self) -> &mut State {
        self.group.as_mut().unwrap_or(&mut self.done)
    }

    /// The states a look-up goes through before the snapshot.
    fn states(&self) -> impl Iterator<Item = &State> {
        self.group.iter().chain([&self.done])
    }

    fn entity(&self, key: &EntityKey) -> Option<&EntityRow> {
        let touched = self.states().find_map(|state| state.touched.get(key));
        touched.or_else(|| self.snapshot.entities.get(key))
    }

    fn conflict(&self, id: ConflictId) -> Option<&Parked> {
        let touched = self.states().find_map(|state| state.conflicts.get(&id));
        touched.or_else(|| self.snapshot.conflicts.get(&id))
    }

    fn verdict(&self, op_id: &OpId) -> Option<&Recorded> {
        let given = self.states().find_map(|state| state.given.get(op_id));
        given.or_else(|| self.snapshot.verdicts.get(op_id))
    }

    /// Decides one operation, unless it is decided already. If it fails a group it is in, returns how it is
    /// decided once the others are out of the way.
    fn op(&mut self, pending: &PendingOp, course: &Course) -> Option<Course> {
        let op_id = &pending.op.op_id;
        if let Some(known) = self.verdict(op_id) {
            let theirs = known.user.is_empty() || known.user == pending.actor.user;
            let same = theirs && known.payload_hash == pending.payload_hash;
            if !(same && pending.retry && self.in_lane(op_id)) {
                let failed = !same || group::fails(known.outcome);
                let answer = if same { known.verdict.clone() } else { reused(pending) };
                self.state().effects.answers.push(Answer::Replayed(answer));
                return failed.then_some(Course::Open);
            }
        }
        if let Some(replaced) = pending.op.replaces.as_ref().filter(|_| self.replaces(pending)) {
            self.state().effects.replaced.push(replaced.clone());
        }
        let identified = match pending.refused.clone().or_else(|| self.crowded(pending)) {
            Some(refused) => Err(refused),
            None => self.identify(pending).map_err(|unknown| course.refusal().unwrap_or(unknown)),
        };
        let (pending, id, local) = match identified {
            Ok(identified) => identified,
            Err(Refused { code, message }) => {
                let decision = Decision::reject(code, message);
                let id = pending.op.id.clone();
                return self.answer(pending, verdict(pending, id, &decision, None), decision);
            }
        };
        let key = EntityKey { kind: pending.op.entity_type.clone(), id };
        let decision = self.follow(course, &pending, &key);
        let mut verdict =
            verdict(&pending, EntityRef::Id(key.id.clone()), &decision, self.entity(&key));
        if let Some(local) = &local
            && decision.outcome == Outcome::Rejected
        {
            // Nothing came of it: the client's own name is still the only one.
            verdict.id = EntityRef::Local(local.id.clone());
        } else if let Some(local) = local {
            verdict.local_id = Some(local.id.clone());
            if self.mapping(&local).is_none() {
                self.state().mapped.insert(local, key.id.clone());
            }
        }
        self.carry_out(&pending, key, &decision, &mut verdict);
        self.answer(&pending, verdict, decision)
    }

    /// Whether an operation was rejected and may be decided anew.
    fn in_lane(&self, op_id: &OpId) -> bool {
        let left = self.states().any(|state| state.effects.replaced.contains(op_id));
        !left && self.verdict(op_id).is_some_and(|known| known.kept)
    }

    /// Whether it is sent in the place of another that is its user's and was decided.
    fn replaces(&self, pending: &PendingOp) -> bool {
        let replaced = pending.op.replaces.as_ref().and_then(|op_id| self.verdict(op_id));
        replaced.is_some_and(|known| known.user == pending.actor.user)
    }

    /// What comes of an operation in whose place is another that took effect after all.
    pub(super) fn took_effect(&self, pending: &PendingOp) -> Option<Decision> {
        let replaced = pending.op.replaces.as_ref().filter(|_| self.replaces(pending))?;
        let message = "the operation it replaces was tried again meanwhile, and took effect";
        let took_effect = self.verdict(replaced)?.outcome != Outcome::Rejected;
        took_effect.then(|| Decision::new(Outcome::Noop).because("replaced", message))
    }

    /// The refusal of a client that wants to notify too many members. Backends may.
    fn crowded(&self, pending: &PendingOp) -> Option<Refused> {
        let notify = pending.op.notify.as_ref().filter(|_| !pending.upsert)?;
        let Rules { notices, notify_members: limit, .. } = self.rules;
        let crowd = notices.crowd(notify, &pending.op.entity_type, &self.snapshot.members);
        let message =
            format!("the limit `notify_members` is {limit}; it would notify {crowd} members");
        (crowd > *limit).then_some(Refused { code: "limit_exceeded", message })
    }

    /// Makes the decision's changes.
    fn carry_out(
        &mut self,
        pending: &PendingOp,
        key: EntityKey,
        decision: &Decision,
        verdict: &mut Verdict,
    ) {
        if let Some(write) = &decision.write {
            self.overrule(pending, &key, write);
            self.write(pending, key, write);
            let seq = self.state().head;
            (verdict.seq, verdict.version) = (Some(seq), Some(seq));
        } else if let (Some(source), Outcome::Noop) = (&pending.source, decision.outcome)
            && let Some(row) = self.entity(&key)
            && row.source_versions.get(&source.source).is_none_or(|v| *v < source.version)
        {
            // That it changed nothing makes it no older: what the source sent before stays stale.
            let mut row = row.clone();
            row.source_versions.insert(source.source.clone(), source.version);
            self.state().touched.insert(key, row);
        }
        if let Some(parked) = &decision.conflict {
            let id = parked.conflict.id;
            verdict.conflict = Some(id);
            self.state().conflicts.insert(id, parked.clone());
        }
    }

    fn answer(
        &mut self,
        pending: &PendingOp,
        verdict: Verdict,
        decision: Decision,
    ) -> Option<Course> {
        let again = self.verdict(&pending.op.op_id).is_some();
        let given = Given {
            again,
            verdict: to_raw_value(&verdict).expect("a verdict has string keys"),
            outcome: verdict.outcome,
            code: decision.because.as_ref().map(|refused| refused.code.to_owned()),
            id: verdict.id,
        };
        let recorded = Recorded {
            payload_hash: pending.payload_hash,
            user: pending.actor.user.clone(),
            verdict: given.verdict.clone(),
            outcome: given.outcome,
            kept: given.outcome == Outcome::Rejected && !pending.upsert,
        };
        let state = self.state();
        state.given.insert(pending.op.op_id.clone(), recorded);
        state.effects.answers.push(Answer::New(given));
        Course::after(decision)
    }

    fn write(&mut self, pending: &PendingOp, key: EntityKey, write: &Write) {
        let Write { kind, patch, text } = write;
        let now = self.now_ms;
        let old = self.entity(&key);
        let prev = old.map_or(Seq::ZERO, |row| row.version);
        let seq = self.group.as_ref().unwrap_or(&self.done).head.next();
        let op_id = pending.op.op_id.as_str();
        let stamp = Stamp::new(seq, &pending.actor, op_id, edited_at(pending, now));
        let row = next_row(pending, old, write, stamp);
        let fields = (*kind != ChangeKind::Delete).then(|| text.clone());
        let change = (&self.snapshot.project, &key, *kind);
        let notifications = self.rules.notices.plan(pending, change, (patch, &row), now);
        let state = self.state();
        state.head = seq;
        state.effects.entries.push(LogEntry {
            seq,
            entity: key.clone(),
            kind: *kind,
            prev,
            fields,
            actor: pending.actor.user.clone(),
            client: pending.actor.client.clone(),
            op_id: pending.op.op_id.clone(),
            at: now,
        });
        state.touched.insert(key, row);
        state.effects.notifications.extend(notifications);
    }
}

#[cfg(test)]
mod tests;
