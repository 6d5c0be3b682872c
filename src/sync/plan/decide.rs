//! What one operation does to its entity as it stands.

use super::{Decision, Planner, STALE};
use crate::id::{EntityKey, Seq};
use crate::protocol::conflict::ConflictKind;
use crate::protocol::op::{ChangeKind, Fields, OpKind, Outcome};
use crate::store::{EntityRow, PendingOp};

impl Planner<'_> {
    pub(super) fn decide(&self, pending: &PendingOp, key: &EntityKey) -> Decision {
        let current = self.entity(key);
        if let (Some(source), Some(row)) = (&pending.source, current)
            && row.source_versions.get(&source.source).is_some_and(|v| *v >= source.version)
        {
            let message = "the source has sent a newer version of the entity";
            return Decision::new(Outcome::Noop).because(STALE, message);
        }
        if pending.op.kind == OpKind::Resolve {
            return self.resolve(pending, key, current);
        }
        match current {
            None => absent(pending),
            Some(row) if row.deleted => self.on_tombstone(pending, key, row),
            Some(row) => self.on_live(pending, key, row),
        }
    }

    fn on_live(&self, pending: &PendingOp, key: &EntityKey, row: &EntityRow) -> Decision {
        let op = &pending.op;
        if op.kind != OpKind::Delete {
            return if pending.upsert {
                overwrite(row, &op.fields)
            } else {
                self.on_fields(pending, key, row)
            };
        }
        match row.stamps.foreign(self.known(op.base), &pending.actor) {
            Some(theirs) if !pending.upsert => {
                self.meeting(pending, key, row, ConflictKind::Changed).whole(theirs)
            }
            _ => Decision::write(ChangeKind::Delete, Fields::new()),
        }
    }

    fn on_fields(&self, pending: &PendingOp, key: &EntityKey, row: &EntityRow) -> Decision {
        if pending.op.kind == OpKind::Create {
            return self.meeting(pending, key, row, ConflictKind::Exists).fields();
        }
        let deleted = self.meeting(pending, key, row, ConflictKind::Deleted);
        match deleted.replaced() {
            Some(theirs) => deleted.whole(theirs),
            None => self.meeting(pending, key, row, ConflictKind::Fields).fields(),
        }
    }

    fn on_tombstone(&self, pending: &PendingOp, key: &EntityKey, row: &EntityRow) -> Decision {
        let op = &pending.op;
        let theirs = row.stamps.foreign(self.known(op.base), &pending.actor);
        match (op.kind, theirs) {
            (OpKind::Delete, _) => Decision::new(Outcome::Noop),
            (OpKind::Create, _) if pending.upsert => create(pending),
            (_, Some(theirs)) if !pending.upsert => {
                self.meeting(pending, key, row, ConflictKind::Deleted).whole(theirs)
            }
            (OpKind::Create, _) => create(pending),
            _ => Decision::reject("deleted", "the entity was deleted; create it again").showing(),
        }
    }

    /// The version an operation was made on. One the log has not reached is of a future that was lost:
    /// it counts as having seen nothing.
    pub(super) fn known(&self, base: Seq) -> Seq {
        if base > self.snapshot.head { Seq::ZERO } else { base }
    }
}

fn absent(pending: &PendingOp) -> Decision {
    match pending.op.kind {
        OpKind::Create => create(pending),
        OpKind::Delete => Decision::new(Outcome::Noop),
        OpKind::Update | OpKind::Resolve => {
            Decision::reject("not_found", "there is no such entity; create it first")
        }
    }
}

fn create(pending: &PendingOp) -> Decision {
    Decision::write(ChangeKind::Create, pending.op.fields.clone())
}

/// Sets the fields whatever they were.
pub(super) fn overwrite(row: &EntityRow, fields: &Fields) -> Decision {
    let changed = fields.iter().filter(|(name, value)| row.fields.get(*name) != Some(value));
    let patch: Fields = changed.map(|(name, value)| (name.clone(), value.clone())).collect();
    if patch.is_empty() {
        return Decision::new(Outcome::Noop);
    }
    Decision::write(ChangeKind::Update, patch)
}

/// A deleted entity as it was, with an edit on top.
pub(super) fn revive(row: &EntityRow, edit: &Fields) -> Decision {
    let mut fields = row.buried.clone();
    fields.extend(edit.clone());
    Decision::write(ChangeKind::Create, fields)
}
