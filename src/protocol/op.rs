//! The vocabulary of writes: what a client asks ([`Op`]) and what it is told ([`Verdict`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use super::notify::{Lane, Notify};
use crate::id::{ConflictId, EntityRef, EntityType, LocalId, OpId, Seq};

/// The fields of an entity, or the changed ones.
pub type Fields = serde_json::Map<String, serde_json::Value>;

/// What a change does to its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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

/// What an operation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// A new entity.
    Create,
    /// Other values for some fields.
    Update,
    /// The entity's end.
    Delete,
    /// The end of an open conflict about the entity.
    Resolve,
}

/// One operation of a client on one entity. `op_id` makes it safe to send again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Op {
    /// The idempotency key, unique within the project; UUIDv7 by convention.
    pub op_id: OpId,
    /// What to do.
    pub kind: OpKind,
    /// The entity's type.
    #[serde(rename = "type")]
    pub entity_type: EntityType,
    /// The entity.
    pub id: EntityRef,
    /// The version of the entity the client saw; 0 for a create.
    #[serde(default)]
    pub base: Seq,
    /// The fields to set; empty for a delete.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub fields: Fields,
    /// What the client had in these fields before the edit. Merging counters, sets and texts needs it.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub was: Fields,
    /// When the user made the edit, in milliseconds since the Unix epoch by the client's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<i64>,
    /// Whether it goes before others of the same request, on other entities.
    #[serde(default, skip_serializing_if = "is_normal")]
    pub priority: Lane,
    /// Operations of one request with the same group take effect together or not at all; they stand next
    /// to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// For a resolve: the conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictId>,
    /// For a resolve: whose values stand; where `fields` has a value, that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choose: Option<Choose>,
    /// For a resolve: the entity's version the decision was made on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<Seq>,
    /// Whom to reach about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// The rejected operation of the same user in whose place this one is sent. That one leaves the failed
    /// lane; if it took effect meanwhile, because somebody tried it again, this one does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<OpId>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_normal(lane: &Lane) -> bool {
    *lane == Lane::Normal
}

/// Whose values stand once a conflict is resolved.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Choose {
    /// One side's in every field.
    All(Side),
    /// Each field's own. Of those not named, the ones in conflict stay as the server has them.
    Each(BTreeMap<String, Side>),
}

impl Choose {
    /// The side chosen for a field, if one is.
    #[must_use]
    pub fn side(&self, field: &str) -> Option<Side> {
        match self {
            Self::All(side) => Some(*side),
            Self::Each(sides) => sides.get(field).copied(),
        }
    }
}

/// A side of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The parked operation.
    Client,
    /// The entity as it is.
    Server,
}

/// What became of an operation. Terminal: the same `op_id` gets the same verdict for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Written to the log as asked.
    Applied,
    /// Written to the log together with somebody else's edit; `fields` holds what the operation's
    /// fields are now.
    Merged,
    /// The entity already was as asked; nothing was written.
    Noop,
    /// Somebody else's edit stands, nothing was written; what was lost is in the conflict log.
    Superseded,
    /// The user has to decide: the operation is parked as `conflict`.
    Conflict,
    /// The operation cannot be applied; `code` says why.
    Rejected,
}

impl Outcome {
    /// The outcome as it stands on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Merged => "merged",
            Self::Noop => "noop",
            Self::Superseded => "superseded",
            Self::Conflict => "conflict",
            Self::Rejected => "rejected",
        }
    }
}

/// The state of an entity as the store has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EntityState {
    /// The `seq` of its last change.
    pub version: Seq,
    /// Whether it was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// All its fields that the reader may see; empty if deleted.
    pub fields: Fields,
}

/// The answer to one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// The operation answered.
    pub op_id: OpId,
    /// What became of it.
    pub outcome: Outcome,
    /// The entity's id; still the local one if the operation was refused before it had another.
    pub id: EntityRef,
    /// What the client called the entity, if `id` is new to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_id: Option<LocalId>,
    /// The change's position in the log; absent if nothing was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// The entity's version after the operation; absent if there is no such entity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Seq>,
    /// For `rejected`, `superseded` and `conflict`: why, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For `rejected`, `superseded` and `conflict`: why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For `merged`: the operation's fields as they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Fields>,
    /// For `superseded` and `conflict`: the entity as the server has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<EntityState>,
    /// The entry of the conflict log, if there was a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictId>,
}

/// A verdict as it was first written, replayed byte for byte on retries.
pub type StoredVerdict = Box<RawValue>;
