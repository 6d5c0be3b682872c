//! How values stand in a column, and how they are read back; the same for both engines.

use std::borrow::Cow;

use serde_json::value::RawValue;
use uuid::Uuid;

use super::StoreError;
use crate::id::{EntityId, EntityKey, EntityType, Epoch, InvalidName, Seq};
use crate::protocol::op::{ChangeKind, Lane};

/// A position as a column; one beyond what a column holds is beyond every head as well.
pub(super) fn from_seq(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

/// A position out of a column.
pub(super) fn seq(column: i64) -> Seq {
    Seq(u64::try_from(column).unwrap_or(0))
}

pub(super) fn epoch(column: &str) -> Result<Epoch, StoreError> {
    Uuid::parse_str(column).map(Epoch).map_err(|e| StoreError::unreadable("epoch", &e))
}

pub(super) fn name<T>(column: &str) -> Result<T, StoreError>
where
    T: std::str::FromStr<Err = InvalidName>,
{
    column.parse().map_err(|e| StoreError::unreadable("name", &e))
}

pub(super) fn entity_key(kind: &str, id: &str) -> Result<EntityKey, StoreError> {
    Ok(EntityKey { kind: name::<EntityType>(kind)?, id: name::<EntityId>(id)? })
}

pub(super) fn json<T: serde::de::DeserializeOwned>(column: &str) -> Result<T, StoreError> {
    serde_json::from_str(column).map_err(|e| StoreError::unreadable("JSON text", &e))
}

pub(super) fn raw_json(column: String) -> Result<Box<RawValue>, StoreError> {
    RawValue::from_string(column).map_err(|e| StoreError::unreadable("JSON text", &e))
}

/// Serialises what has string keys and finite numbers, so it cannot fail.
pub(super) fn json_text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("string keys and finite numbers")
}

/// A text for a text column: PostgreSQL has none with a NUL in it.
pub(super) fn text(value: &str) -> Cow<'_, str> {
    if value.contains('\0') { value.replace('\0', "\u{fffd}").into() } else { value.into() }
}

pub(super) fn change_kind(column: &str) -> Result<ChangeKind, StoreError> {
    [ChangeKind::Create, ChangeKind::Update, ChangeKind::Delete]
        .into_iter()
        .find(|kind| kind.as_str() == column)
        .ok_or_else(|| StoreError::unreadable("kind of change", &"unknown"))
}

pub(super) fn lane(column: &str) -> Result<Lane, StoreError> {
    [Lane::Critical, Lane::High, Lane::Normal]
        .into_iter()
        .find(|lane| lane.as_str() == column)
        .ok_or_else(|| StoreError::unreadable("lane", &"unknown"))
}

/// One of a small set of values, each a text in JSON.
pub(super) fn word<T: serde::de::DeserializeOwned>(column: &str) -> Result<T, StoreError> {
    let text = serde_json::Value::from(column);
    serde_json::from_value(text).map_err(|e| StoreError::unreadable("word", &e))
}

/// Such a value as a column.
pub(super) fn from_word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("{other:?} is not a word"),
    }
}
