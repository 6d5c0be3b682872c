//! What is said of a decision.

use serde_json::value::to_raw_value;

use super::Decision;
use crate::id::EntityRef;
use crate::protocol::op::{EntityState, Fields, Op, Outcome, StoredVerdict, Verdict};
use crate::store::{EntityRow, PendingOp, Refused};

/// The verdict of an operation on an entity as it stands, before the change has its position. It shows no
/// field the actor does not see.
pub(super) fn verdict(
    pending: &PendingOp,
    id: EntityRef,
    decision: &Decision,
    current: Option<&EntityRow>,
) -> Verdict {
    let because = decision.because.as_ref();
    let visible = |fields: &Fields| {
        let mut fields = fields.clone();
        fields.retain(|name, _| !pending.access.hidden.iter().any(|hidden| **hidden == **name));
        fields
    };
    let state = |row: &EntityRow| EntityState {
        version: row.version,
        deleted: row.deleted,
        fields: visible(&row.fields),
    };
    Verdict {
        op_id: pending.op.op_id.clone(),
        outcome: decision.outcome,
        id,
        local_id: None,
        seq: None,
        version: current.map(|row| row.version),
        code: because.map(|refused| refused.code.to_owned()),
        message: because.map(|refused| refused.message.clone()),
        fields: decision.fields.as_ref().map(visible),
        current: current.filter(|_| decision.shown).map(state),
        conflict: None,
    }
}

/// A verdict about an operation that never reaches the store: it cannot be read, or reuses an `op_id`.
#[must_use]
pub fn rejected(op: &Op, code: &str, message: &str) -> StoredVerdict {
    let verdict = Verdict {
        op_id: op.op_id.clone(),
        outcome: Outcome::Rejected,
        id: op.id.clone(),
        local_id: None,
        seq: None,
        version: None,
        code: Some(code.to_owned()),
        message: Some(message.to_owned()),
        fields: None,
        current: None,
        conflict: None,
    };
    to_raw_value(&verdict).expect("a verdict has string keys")
}

/// The refusal of another's or another operation's `op_id`. Who may not do it is told only that.
pub(super) fn reused(pending: &PendingOp) -> StoredVerdict {
    if let Some(Refused { code, message }) = &pending.refused {
        return rejected(&pending.op, code, message);
    }
    let message = "this op_id was used for another operation; give each operation its own";
    rejected(&pending.op, "op_id_reused", message)
}
