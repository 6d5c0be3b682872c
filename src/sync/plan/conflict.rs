//! What two sides did to the same entity, how it ends, and what of it is remembered.
//!
//! Every real conflict leaves an entry in the conflict log with both sides' values, so that whoever lost
//! can be helped. An entry is open while its operation is parked for the user; a resolve closes it.

use std::collections::HashSet;

use serde_json::Value;
use uuid::Uuid;

use super::decide::overwrite;
use super::{Decision, Planner, Write, edited_at};
use crate::id::{ConflictId, EntityKey, Seq};
use crate::protocol::conflict::{Conflict, ConflictField, ConflictKind, ConflictState, Strategy};
use crate::protocol::op::{ChangeKind, Choose, Fields, Op, OpKind, Outcome, Side};
use crate::store::{EntityRow, Parked, PendingOp, Stamp};
use crate::sync::merge::{self, Edit, Resolved, Sides};

/// An operation that meets an entity which may have moved since the client saw it.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'m> {
    planner: &'m Planner<'m>,
    pending: &'m PendingOp,
    key: &'m EntityKey,
    row: &'m EntityRow,
    kind: ConflictKind,
}

impl<'a> Planner<'a> {
    pub(super) fn meeting<'m>(
        &'m self,
        pending: &'m PendingOp,
        key: &'m EntityKey,
        row: &'m EntityRow,
        kind: ConflictKind,
    ) -> Meeting<'m> {
        Meeting { planner: self, pending, key, row, kind }
    }
}

impl Meeting<'_> {
    /// Field by field.
    pub(super) fn fields(self) -> Decision {
        let Op { fields, was, .. } = &self.pending.op;
        let (mut patch, mut now) = (Fields::new(), Fields::new());
        let mut met = Vec::with_capacity(fields.len());
        let (mut parked, mut lost) = (None, false);
        for (name, client) in fields {
            let server = self.row.fields.get(name);
            let conflict = self.in_conflict(name, client);
            let rule = self.planner.rules.field(&self.key.kind, name);
            let sides = Sides {
                server,
                client,
                was: was.get(name),
                conflict,
                theirs: self.row.stamps.of(name).map_or(self.ours(), edit),
                ours: self.ours(),
            };
            let result = match merge::resolve(rule, sides) {
                Resolved::Client => client,
                Resolved::Merged(ref value) => &value.clone(),
                Resolved::Server => server.unwrap_or(client),
                Resolved::Park => {
                    parked = parked.or(Some(rule.whole()));
                    client
                }
            };
            lost |= conflict && server == Some(result);
            if server != Some(result) {
                patch.insert(name.clone(), result.clone());
            }
            met.push(ConflictField {
                name: name.clone(),
                was: was.get(name).cloned(),
                client: Some(client.clone()),
                server: server.cloned(),
                result: Some(result.clone()),
                conflict,
                strategy: rule.strategy,
            });
            now.insert(name.clone(), result.clone());
        }
        if let Some(strategy) = parked {
            return self.park(strategy, met);
        }
        let mut decision = match (patch.is_empty(), now == *fields) {
            (true, true) => Decision::new(Outcome::Noop),
            (true, false) if lost => self.superseded(),
            (true, false) => Decision { fields: Some(now), ..Decision::new(Outcome::Merged) },
            (false, true) => Decision::write(ChangeKind::Update, patch),
            (false, false) => Decision {
                outcome: Outcome::Merged,
                fields: Some(now),
                ..Decision::write(ChangeKind::Update, patch)
            },
        };
        if met.iter().any(|field| field.conflict) {
            met.retain(|field| field.conflict);
            let strategy = met[0].strategy;
            decision.conflict = Some(self.entry(strategy, decision.outcome, met));
        }
        decision
    }

    /// A deletion against an edit, whichever came first: one of them stands.
    pub(super) fn whole(self, theirs: &Stamp) -> Decision {
        let strategy = self.planner.rules.entity(&self.key.kind).whole();
        let met = self.all_fields();
        let decision = match strategy {
            Strategy::Manual => return self.park(strategy, met),
            Strategy::ClientWins => self.client_wins(),
            Strategy::LastWriteWins if self.ours() > edit(theirs) => self.client_wins(),
            Strategy::LastWriteWins | Strategy::ServerWins | Strategy::Merge => self.superseded(),
        };
        let conflict = Some(self.entry(strategy, decision.outcome, met));
        Decision { conflict, ..decision }
    }

    /// Who made the entity anew after the client saw it, without a field that the client remembers: the
    /// one it edits was deleted.
    pub(super) fn replaced(&self) -> Option<&Stamp> {
        let Op { was, fields, .. } = &self.pending.op;
        let theirs = self.row.stamps.made().filter(|stamp| self.unseen(stamp));
        let lost = |name: &String| {
            !self.row.fields.contains_key(name) && was.get(name).is_some_and(|was| !was.is_null())
        };
        theirs.filter(|_| fields.keys().any(lost))
    }

    /// Whether somebody else changed the field after the client saw it, to another value than the
    /// client saw or asks for.
    fn in_conflict(&self, name: &str, client: &Value) -> bool {
        let Some(server) = self.row.fields.get(name) else { return false };
        server != client
            && self.row.stamps.of(name).is_some_and(|stamp| self.unseen(stamp))
            && self.pending.op.was.get(name).is_none_or(|was| was != server)
    }

    /// Whether somebody else made a change after what the client saw.
    fn unseen(&self, stamp: &Stamp) -> bool {
        stamp.foreign(self.planner.known(self.pending.op.base), &self.pending.actor)
    }

    fn ours(&self) -> Edit<'_> {
        Edit {
            at: edited_at(self.pending, self.planner.now_ms),
            client: &self.pending.actor.client,
            op: self.pending.op.op_id.as_str(),
        }
    }

    /// The edit or the deletion happens after all.
    fn client_wins(&self) -> Decision {
        let op = &self.pending.op;
        match op.kind {
            OpKind::Delete => Decision::write(ChangeKind::Delete, Fields::new()),
            OpKind::Create => Decision::write(ChangeKind::Create, op.fields.clone()),
            OpKind::Update if !self.row.deleted => overwrite(self.row, &op.fields),
            OpKind::Update | OpKind::Resolve => revive(self.row, &op.fields),
        }
    }

    fn superseded(&self) -> Decision {
        let message = match self.kind {
            ConflictKind::Exists => "an entity with this id exists already; it stands as it is",
            ConflictKind::Deleted => "the entity was deleted meanwhile",
            ConflictKind::Changed => "the entity was changed meanwhile; it was not deleted",
            ConflictKind::Fields | ConflictKind::Overruled => {
                "the fields were changed meanwhile; the server's values stand"
            }
        };
        Decision::new(Outcome::Superseded).because(code(self.kind), message).showing()
    }

    fn park(&self, strategy: Strategy, mut met: Vec<ConflictField>) -> Decision {
        for field in &mut met {
            field.result = None;
        }
        let mut parked = self.entry(strategy, Outcome::Conflict, met);
        parked.conflict.state = ConflictState::Open;
        parked.op = Some(self.pending.op.clone());
        let message = "somebody else changed the same; decide with a `resolve` operation";
        Decision {
            conflict: Some(parked),
            ..Decision::new(Outcome::Conflict).because(code(self.kind), message).showing()
        }
    }

    /// The fields of a conflict that is about the entity as a whole.
    fn all_fields(&self) -> Vec<ConflictField> {
        let Op { fields, was, .. } = &self.pending.op;
        let field = |name: &str, client: Option<&Value>, server: Option<&Value>| ConflictField {
            name: name.to_owned(),
            was: was.get(name).cloned(),
            client: client.cloned(),
            server: server.cloned(),
            result: None,
            conflict: true,
            strategy: self.planner.rules.entity(&self.key.kind).strategy,
        };
        if self.kind == ConflictKind::Changed {
            let unseen =
                |name: &str| self.row.stamps.of(name).is_some_and(|stamp| self.unseen(stamp));
            let changed = self.row.fields.iter().filter(|(name, _)| unseen(name));
            return changed.map(|(name, server)| field(name, None, Some(server))).collect();
        }
        let met = |(name, client): (&String, &Value)| {
            field(name, Some(client), self.row.fields.get(name))
        };
        fields.iter().map(met).collect()
    }

    fn entry(&self, strategy: Strategy, outcome: Outcome, fields: Vec<ConflictField>) -> Parked {
        let op = &self.pending.op;
        let conflict = Conflict {
            id: new_id(),
            kind: self.kind,
            state: ConflictState::Closed,
            outcome,
            strategy,
            entity: self.key.clone(),
            op_id: op.op_id.clone(),
            op_kind: op.kind,
            user: self.pending.actor.user.clone(),
            client: self.pending.actor.client.clone(),
            base: op.base,
            server_version: self.row.version,
            fields,
            created_at: self.planner.now_ms,
            resolved_at: None,
            resolved_by: None,
        };
        Parked { conflict, op: None }
    }
}

impl Planner<'_> {
    /// Closes an open conflict as the user decided.
    pub(super) fn resolve(
        &self,
        pending: &PendingOp,
        key: &EntityKey,
        current: Option<&EntityRow>,
    ) -> Decision {
        let open = pending.op.conflict.and_then(|id| self.conflict(id)).filter(|parked| {
            parked.conflict.user == pending.actor.user && parked.conflict.entity == *key
        });
        let Some(Parked { conflict, op: parked }) = open else {
            return Decision::reject("not_found", "you have no such conflict about this entity");
        };
        let (ConflictState::Open, Some(parked)) = (conflict.state, parked) else {
            return Decision::reject("not_open", "the conflict is resolved already");
        };
        let version = current.map_or(Seq::ZERO, |row| row.version);
        if pending.op.expected_version != Some(version) {
            let message = "the entity has changed again; look at `current` and decide on that";
            let mut fresh = conflict.clone();
            fresh.server_version = version;
            for field in &mut fresh.fields {
                let now = current.and_then(|row| row.fields.get(&field.name));
                field.conflict |= now != field.server.as_ref();
                field.server = now.cloned();
            }
            let conflict = Some(Parked { conflict: fresh, op: Some(parked.clone()) });
            return Decision {
                conflict,
                ..Decision::new(Outcome::Conflict).because("moved", message).showing()
            };
        }
        let decision = decided(pending, parked, conflict, current);
        if decision.outcome == Outcome::Rejected {
            return decision;
        }
        let mut closed = conflict.clone();
        closed.state = ConflictState::Resolved;
        closed.outcome = decision.outcome;
        closed.resolved_at = Some(self.now_ms);
        closed.resolved_by = Some(pending.op.op_id.clone());
        for field in &mut closed.fields {
            let patch = decision.write.as_ref().and_then(|write| write.patch.get(&field.name));
            let kept = || current.and_then(|row| row.fields.get(&field.name));
            field.result = patch.or_else(kept).cloned();
        }
        Decision { conflict: Some(Parked { conflict: closed, op: None }), ..decision }
    }

    /// Notes that a backend writes over what waits for its user's decision.
    pub(super) fn overrule(&mut self, pending: &PendingOp, key: &EntityKey, write: &Write) {
        if !pending.upsert {
            return;
        }
        let open = |parked: &&Parked| {
            parked.conflict.state == ConflictState::Open && parked.conflict.entity == *key
        };
        let parked = self.states().flat_map(|state| state.conflicts.keys());
        let known: HashSet<_> = self.snapshot.conflicts.keys().chain(parked).collect();
        let waiting = known.into_iter().filter_map(|id| self.conflict(*id)).filter(open);
        let overruled: Vec<_> =
            waiting.filter_map(|parked| self.overruled(parked, write)).collect();
        for entry in overruled {
            self.state().conflicts.insert(entry.conflict.id, entry);
        }
    }

    fn overruled(&self, parked: &Parked, write: &Write) -> Option<Parked> {
        let mut entry = parked.conflict.clone();
        entry.fields.retain(|field| {
            write.kind == ChangeKind::Delete || write.patch.contains_key(&field.name)
        });
        if entry.fields.is_empty() && write.kind != ChangeKind::Delete {
            return None;
        }
        for field in &mut entry.fields {
            field.server = write.patch.get(&field.name).cloned();
            field.result.clone_from(&field.server);
        }
        entry.id = new_id();
        entry.kind = ConflictKind::Overruled;
        entry.state = ConflictState::Closed;
        entry.outcome = Outcome::Superseded;
        entry.strategy = Strategy::ServerWins;
        entry.created_at = self.now_ms;
        Some(Parked { conflict: entry, op: None })
    }
}

/// What the user's decision about a parked operation does to the entity.
fn decided(
    pending: &PendingOp,
    parked: &Op,
    conflict: &Conflict,
    current: Option<&EntityRow>,
) -> Decision {
    let Op { fields, choose, .. } = &pending.op;
    // Nobody contests what was parked only beside something else, as long as it has not changed since.
    let now = |field: &str| current.and_then(|row| row.fields.get(field));
    let uncontested = |field: &str| {
        let met = conflict.fields.iter().find(|met| met.name == field);
        met.is_some_and(|met| !met.conflict && met.server.as_ref() == now(field))
    };
    let side = |field: &str| {
        let chosen = choose.as_ref().and_then(|choose| choose.side(field));
        chosen.unwrap_or(if uncontested(field) { Side::Client } else { Side::Server })
    };
    if parked.kind == OpKind::Delete && fields.is_empty() {
        let delete = matches!(choose, Some(Choose::All(Side::Client)));
        return match current {
            Some(row) if delete && !row.deleted => {
                if pending.access.no_delete {
                    let message = "your role may not delete entities of this type";
                    return Decision::reject("forbidden", message);
                }
                Decision::write(ChangeKind::Delete, Fields::new())
            }
            _ => Decision::new(Outcome::Noop),
        };
    }
    let chosen = parked.fields.iter().filter(|(name, _)| side(name) == Side::Client);
    let mut values: Fields = chosen.map(|(name, value)| (name.clone(), value.clone())).collect();
    values.extend(fields.clone());
    let hidden = |name: &str| pending.access.hidden.iter().any(|hidden| **hidden == *name);
    if let Some(name) = values.keys().find(|name| hidden(name)) {
        return Decision::reject("forbidden", format!("your role may not write `{name}`"));
    }
    let Some(row) = current else {
        return Decision::write(ChangeKind::Create, values);
    };
    if row.deleted {
        return if values.is_empty() { Decision::new(Outcome::Noop) } else { revive(row, &values) };
    }
    values.retain(|name, value| row.fields.get(name) != Some(value));
    if values.is_empty() {
        return Decision::new(Outcome::Noop);
    }
    Decision::write(ChangeKind::Update, values)
}

/// A deleted entity as it was, with an edit on top.
fn revive(row: &EntityRow, edit: &Fields) -> Decision {
    let mut fields = row.buried.clone();
    fields.extend(edit.clone());
    Decision::write(ChangeKind::Create, fields)
}

fn edit(stamp: &Stamp) -> Edit<'_> {
    Edit { at: stamp.3, client: stamp.client(), op: &stamp.2 }
}

fn code(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::Fields | ConflictKind::Overruled => "fields",
        ConflictKind::Exists => "exists",
        ConflictKind::Deleted => "deleted",
        ConflictKind::Changed => "changed",
    }
}

fn new_id() -> ConflictId {
    ConflictId(Uuid::now_v7())
}
