//! What a user decides about an operation of theirs that was parked.

use super::decide::revive;
use super::{Decision, Planner};
use crate::id::{EntityKey, Seq};
use crate::protocol::conflict::{Conflict, ConflictState};
use crate::protocol::op::{ChangeKind, Choose, Fields, Op, OpKind, Outcome, Side};
use crate::store::{EntityRow, Parked, PendingOp};

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
