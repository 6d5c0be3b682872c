//! What the conflict log remembers of a meeting: both sides' values, so that whoever lost can be helped.
//!
//! An entry is open while its operation is parked for the user; [`super::resolve`] closes it.

use serde_json::Value;
use uuid::Uuid;

use super::Decision;
use super::conflict::{Meeting, code};
use crate::id::ConflictId;
use crate::protocol::conflict::{Conflict, ConflictField, ConflictKind, ConflictState, Strategy};
use crate::protocol::op::{Op, Outcome};
use crate::store::Parked;

impl Meeting<'_> {
    pub(super) fn entry(
        &self,
        strategy: Strategy,
        outcome: Outcome,
        fields: Vec<ConflictField>,
    ) -> Parked {
        let op = &self.pending.op;
        let conflict = Conflict {
            id: ConflictId(Uuid::now_v7()),
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

    /// Leaves the decision to the user.
    pub(super) fn park(&self, strategy: Strategy, mut met: Vec<ConflictField>) -> Decision {
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
    pub(super) fn all_fields(&self) -> Vec<ConflictField> {
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
}
