//! Conflicts as clients see them: how one can end, and the log of who met whom over which fields.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::op::{OpKind, Outcome};
use crate::id::{ConflictId, EntityKey, OpId, Seq};

/// Who prevails where two sides changed the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The operation.
    ClientWins,
    /// What is there.
    ServerWins,
    /// Both, where the field's `merge` kind can; else the fallback.
    Merge,
    /// The later edit, by the clients' clocks as far as they can be trusted.
    LastWriteWins,
    /// Nobody, until the user decides: the operation is parked.
    Manual,
}

/// How two edits of one field become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// A number; both sides' differences are added.
    Counter,
    /// A list without order; what either side added or removed is.
    Set,
    /// The larger one.
    Max,
    /// The smaller one.
    Min,
    /// A list or text that only grows at its end; both sides' additions are kept.
    Append,
}

/// What two sides did to the same entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// Both changed a field.
    Fields,
    /// Both created it.
    Exists,
    /// The client edited what somebody else had deleted.
    Deleted,
    /// The client deleted what somebody else had edited.
    Changed,
    /// A backend wrote over what waits for the user's decision.
    Overruled,
}

/// Whether a conflict is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictState {
    /// The operation is parked until the user resolves it.
    Open,
    /// The user resolved it.
    Resolved,
    /// A strategy decided at once.
    Closed,
}

/// One field of a conflict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConflictField {
    /// Its name.
    pub name: String,
    /// What the client started from, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    pub was: Option<Value>,
    /// What the client set; absent for a deletion.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    pub client: Option<Value>,
    /// What was there; absent if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    pub server: Option<Value>,
    /// What is there now; absent while the conflict is open.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "present")]
    pub result: Option<Value>,
    /// Whether both sides changed it; a parked operation's other fields are listed too.
    pub conflict: bool,
    /// The strategy in force for it.
    pub strategy: Strategy,
}

/// `null` is a value: only a missing member is `None`.
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(value: &Option<Value>, s: S) -> Result<S::Ok, S::Error> {
        value.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
        Value::deserialize(d).map(Some)
    }
}

/// One entry of the conflict log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// Its id.
    pub id: ConflictId,
    /// What the two sides did.
    pub kind: ConflictKind,
    /// Whether it is decided.
    pub state: ConflictState,
    /// How it was decided: what became of the operation. `conflict` while it is open.
    pub outcome: Outcome,
    /// The strategy that decided, of the entity type or of the field that parked the operation.
    pub strategy: Strategy,
    /// The entity.
    pub entity: EntityKey,
    /// The operation.
    pub op_id: OpId,
    /// What the operation asked for.
    pub op_kind: OpKind,
    /// Who sent it.
    pub user: String,
    /// From which installation.
    pub client: String,
    /// The version the client saw.
    pub base: Seq,
    /// The version it met: what `server` values are of. Resolve with this as `expected_version`.
    pub server_version: Seq,
    /// What was at stake.
    pub fields: Vec<ConflictField>,
    /// When, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// When the user resolved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<i64>,
    /// The operation that resolved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<OpId>,
}
