//! From the names clients give to entities they make offline to the ids these entities get.
//!
//! A create under a `local:` name gets a new id, and the name is mapped to it for this user and
//! installation. From then on the name stands for the id, as the entity of an operation and in fields
//! that are declared to refer to other entities.

use std::borrow::Cow;

use serde_json::Value;
use uuid::Uuid;

use super::Planner;
use crate::id::{EntityId, EntityRef, LocalId};
use crate::protocol::op::OpKind;
use crate::store::{LocalName, PendingOp, Refused};

/// An operation with ids in the place of names, its entity's id, and the name that id stands for.
pub(super) type Identified<'p> = (Cow<'p, PendingOp>, EntityId, Option<LocalName>);

impl Planner<'_> {
    /// Replaces local ids. Refuses a name nobody knows.
    pub(super) fn identify<'p>(&self, pending: &'p PendingOp) -> Result<Identified<'p>, Refused> {
        let (id, local) = match &pending.op.id {
            EntityRef::Id(id) => (id.clone(), None),
            EntityRef::Local(local) => {
                let name = pending.local_name(&pending.op.entity_type, local);
                let id = match self.mapping(&name) {
                    Some(id) => id.clone(),
                    None if pending.op.kind == OpKind::Create => new_id(),
                    None => return Err(unknown(local, "create it first, under this name")),
                };
                (id, Some(name))
            }
        };
        if pending.locals.is_empty() {
            return Ok((Cow::Borrowed(pending), id, local));
        }
        let mut replaced = pending.clone();
        // A new entity may refer to itself, before its name is mapped.
        let own = local.as_ref().map(|name| (name, &id));
        for (field, kind) in self.rules.references(&pending.op.entity_type) {
            for fields in [&mut replaced.op.fields, &mut replaced.op.was] {
                let Some(value) = fields.get_mut(field) else { continue };
                self.replace(value, own, |local| pending.local_name(kind, local))?;
            }
        }
        Ok((Cow::Owned(replaced), id, local))
    }

    pub(super) fn mapping(&self, name: &LocalName) -> Option<&EntityId> {
        let mapped = self.states().find_map(|state| state.mapped.get(name));
        mapped.or_else(|| self.snapshot.mappings.get(name))
    }

    /// Replaces the local ids in one field, a single one or a list. `own` is the name of the entity itself.
    fn replace(
        &self,
        value: &mut Value,
        own: Option<(&LocalName, &EntityId)>,
        full: impl Fn(&LocalId) -> LocalName,
    ) -> Result<(), Refused> {
        let values = match value {
            Value::Array(values) => values.as_mut_slice(),
            value => std::slice::from_mut(value),
        };
        for value in values {
            if let Some(local) = local_id(value) {
                let name = full(&local);
                let own = own.and_then(|(own, id)| (*own == name).then_some(id));
                let id = own.or_else(|| self.mapping(&name)).ok_or_else(|| {
                    unknown(&local, "create what it stands for earlier, or in the same request")
                })?;
                *value = Value::from(id.as_str());
            }
        }
        Ok(())
    }
}

/// The local id a value of a referring field is, if it is one.
pub(in crate::sync) fn local_id(value: &Value) -> Option<LocalId> {
    value.as_str().and_then(|text| LocalId::new(text).ok())
}

fn unknown(local: &LocalId, advice: &str) -> Refused {
    let message = format!("nothing is known as `{}`; {advice}", local.as_str());
    Refused { code: "unknown_local_id", message }
}

fn new_id() -> EntityId {
    EntityId::new(&Uuid::now_v7().to_string()).expect("a UUID is an entity id")
}
