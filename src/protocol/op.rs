//! The vocabulary of writes: what a client asks ([`Op`]) and what it is told ([`Verdict`]).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use super::notify::{Lane, Notify};
use crate::id::{EntityId, EntityType, OpId, Seq};

/// The fields of an entity, or the changed ones.
pub type Fields = serde_json::Map<String, serde_json::Value>;

/// What an operation or a change does to its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A new entity; `fields` is all of it.
    Create,
    /// Some fields of an entity; `null` is a value.
    Update,
    /// The entity is gone; a tombstone stays.
    Delete,
}

impl ChangeKind {
    /// The kind as it stands on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// One operation of a client on one entity. `op_id` makes it safe to send again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Op {
    /// The idempotency key, unique within the project; UUIDv7 by convention.
    pub op_id: OpId,
    /// What to do.
    pub kind: ChangeKind,
    /// The entity's type.
    #[serde(rename = "type")]
    pub entity_type: EntityType,
    /// The entity's id.
    pub id: EntityId,
    /// The version of the entity the client saw; 0 for a create.
    #[serde(default)]
    pub base: Seq,
    /// The fields to set; empty for a delete.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub fields: Fields,
    /// When the user made the edit, in milliseconds since the Unix epoch by the client's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<i64>,
    /// Whom to reach about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
}

/// What became of an operation. Terminal: the same `op_id` gets the same verdict for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Written to the log.
    Applied,
    /// The entity already was as asked; nothing was written.
    Noop,
    /// The entity moved on since `base`; the server's state stands and is in `current`.
    Conflict,
    /// The operation cannot be applied, ever; `code` says why.
    Rejected,
}

/// The state of an entity as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntityState {
    /// The `seq` of its last change.
    pub version: Seq,
    /// Whether it was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// All its fields; empty if deleted.
    pub fields: Fields,
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The operation answered.
    pub op_id: OpId,
    /// What became of it.
    pub outcome: Outcome,
    /// The entity's id.
    pub id: EntityId,
    /// The change's position in the log; absent if nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// The entity's version after the operation; absent if there is no such entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Seq>,
    /// For `rejected` and `conflict`: why, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For `rejected` and `conflict`: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For `conflict`: the entity as the server has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<EntityState>,
}

/// A verdict as it was first written, replayed byte for byte on retries.
pub type StoredVerdict = Box<RawValue>;
