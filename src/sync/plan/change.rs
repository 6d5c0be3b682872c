//! From a decision to the entity it leaves: within its limit, and with a stamp on each field that changed.

use serde_json::value::{RawValue, to_raw_value};

use super::{Decision, Planner};
use crate::id::{EntityKey, Seq};
use crate::protocol::op::{ChangeKind, Fields};
use crate::store::{EntityRow, PendingOp, Stamp, Stamps};

/// A change of an entity.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) kind: ChangeKind,
    /// What changes; everything for a create.
    pub(super) patch: Fields,
    /// The same as it enters the log.
    pub(super) text: Box<RawValue>,
}

impl Write {
    pub(super) fn new(kind: ChangeKind, patch: Fields) -> Self {
        let text = json(&patch);
        Self { kind, patch, text }
    }
}

fn json(fields: &Fields) -> Box<RawValue> {
    to_raw_value(fields).expect("fields have string keys")
}

impl Planner<'_> {
    /// Rejects what would make its entity larger than one may be, with what is remembered of who set what.
    pub(super) fn bounded(
        &self,
        pending: &PendingOp,
        key: &EntityKey,
        decision: Decision,
    ) -> Decision {
        let Some(write) = &decision.write else { return decision };
        let limit = self.rules.entity_bytes;
        let current = self.entity(key);
        let stamp = Stamp::new(Seq::ZERO, &pending.actor, pending.op.op_id.as_str(), 0);
        let kept = current.filter(|row| !row.deleted && write.kind == ChangeKind::Update);
        let kept = kept.map_or(0, |row| row.bytes + row.stamps.bytes());
        // At most this; what is replaced counts twice, which is not worth writing the fields out for.
        if kept + write.text.get().len() + write.patch.len() * stamp.bytes() <= limit {
            return decision;
        }
        let row = next_row(pending, current, write, stamp);
        if json(&row.fields).get().len() + row.stamps.bytes() <= limit {
            return decision;
        }
        let message = format!("the limit `entity_bytes` is {limit}; the entity would be larger");
        Decision::reject("limit_exceeded", message)
    }
}

/// When the edit was made; nobody edits in the future.
pub(super) fn edited_at(pending: &PendingOp, now_ms: i64) -> i64 {
    pending.edited_at.map_or(now_ms, |at| at.min(now_ms))
}

/// The entity after a change.
pub(super) fn next_row(
    pending: &PendingOp,
    old: Option<&EntityRow>,
    write: &Write,
    stamp: Stamp,
) -> EntityRow {
    let mut source_versions = old.map(|row| row.source_versions.clone()).unwrap_or_default();
    if let Some(source) = &pending.source {
        source_versions.insert(source.source.clone(), source.version);
    }
    let version = stamp.0;
    let row = |fields: Fields, buried: Fields, stamps: Stamps, bytes| EntityRow {
        version,
        deleted: write.kind == ChangeKind::Delete,
        fields,
        buried,
        stamps,
        source_versions,
        bytes,
    };
    match (write.kind, old) {
        (ChangeKind::Delete, old) => {
            let (buried, bytes) =
                old.map(|row| (row.fields.clone(), row.bytes)).unwrap_or_default();
            row(Fields::new(), buried, Stamps::whole(stamp), bytes)
        }
        (ChangeKind::Update, Some(old)) => {
            let (mut fields, mut stamps) = (old.fields.clone(), old.stamps.clone());
            for (name, value) in &write.patch {
                fields.insert(name.clone(), value.clone());
                stamps.set(name, stamp.clone());
            }
            row(fields, Fields::new(), stamps, old.bytes + write.text.get().len())
        }
        (ChangeKind::Create | ChangeKind::Update, _) => {
            let bytes = write.text.get().len();
            row(write.patch.clone(), Fields::new(), Stamps::whole(stamp), bytes)
        }
    }
}
