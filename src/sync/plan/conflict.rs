//! What two sides did to the same entity, and how it ends: field by field, or for the entity as a whole.
//!
//! Every real conflict leaves an [`super::entry`] in the conflict log.

use serde_json::Value;

use super::decide::{overwrite, revive};
use super::{Decision, Planner, edited_at};
use crate::id::EntityKey;
use crate::protocol::conflict::{ConflictField, ConflictKind, Strategy};
use crate::protocol::op::{ChangeKind, Fields, Op, OpKind, Outcome};
use crate::store::{EntityRow, PendingOp, Stamp};
use crate::sync::merge::{self, Edit, Resolved, Sides};

/// An operation that meets an entity which may have moved since the client saw it.
#[derive(Clone, Copy)]
pub(super) struct Meeting<'m> {
    pub(super) planner: &'m Planner<'m>,
    pub(super) pending: &'m PendingOp,
    pub(super) key: &'m EntityKey,
    pub(super) row: &'m EntityRow,
    pub(super) kind: ConflictKind,
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
    pub(super) fn unseen(&self, stamp: &Stamp) -> bool {
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
}

fn edit(stamp: &Stamp) -> Edit<'_> {
    Edit { at: stamp.3, client: stamp.client(), op: &stamp.2 }
}

pub(super) fn code(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::Fields | ConflictKind::Overruled => "fields",
        ConflictKind::Exists => "exists",
        ConflictKind::Deleted => "deleted",
        ConflictKind::Changed => "changed",
    }
}
