//! The names of things: projects, users, entities, rooms, sequence numbers.
//!
//! Every name a stranger can send is validated once, here, when it becomes a value; the rest of the
//! program never sees an unchecked one. Clones are cheap (`Arc<str>`), because a name is shared by every
//! subscription, queue and log line that mentions it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A name that does not have the form its kind asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {form}")]
pub struct InvalidName {
    /// What was being named, e.g. `project`.
    pub kind: &'static str,
    /// The form it should have had, in words.
    pub form: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $form:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes it a name.
            ///
            /// # Errors
            /// [`InvalidName`] with the expected form.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName { kind: $kind, form: $form })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }

        #[cfg(test)]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $form })
            }
        }
    };
}

fn is_word(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn is_printable(text: &str, max: usize) -> bool {
    let mut chars = 0;
    text.chars().all(|c| {
        chars += 1;
        chars <= max && !c.is_control() && c != ':'
    }) && chars > 0
}

name!(
    /// A project: the unit of ordering, of access and of fan-out. `[A-Za-z0-9_-]{1,64}`.
    ProjectId, "project", "1 to 64 letters, digits, `_` or `-`", |t| is_word(t, 64)
);
name!(
    /// A user, as the token's subject claim names them. 1 to 128 printable characters without `:`.
    UserId, "user", "1 to 128 printable characters without `:`", |t| is_printable(t, 128)
);
name!(
    /// The type of an entity. `[a-z][a-z0-9_]{0,63}`.
    EntityType, "entity type", "a lower-case letter, then up to 63 lower-case letters, digits or `_`",
    |t| {
        (1..=64).contains(&t.len())
            && t.as_bytes()[0].is_ascii_lowercase()
            && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }
);
name!(
    /// An entity's id within its type. 1 to 128 printable characters without `:`.
    EntityId, "entity id", "1 to 128 printable characters without `:`", |t| is_printable(t, 128)
);
name!(
    /// The installation a client runs on: the same across reconnects and tokens. A UUID by convention.
    ClientId, "client", "1 to 64 letters, digits, `_` or `-`", |t| is_word(t, 64)
);
/// What every local id begins with. No entity id does, because none has a `:`.
const LOCAL: &str = "local:";

name!(
    /// What a client calls an entity it made offline, until the server has given it an id:
    /// `local:` and 1 to 120 printable characters without `:`.
    LocalId, "local id", "`local:`, then 1 to 120 printable characters without `:`",
    |t| t.strip_prefix(LOCAL).is_some_and(|rest| is_printable(rest, 120))
);
name!(
    /// An operation's or an event's idempotency key, unique within its project.
    OpId, "op_id", "1 to 128 printable characters without `:`", |t| is_printable(t, 128)
);
name!(
    /// A role a token grants in a project. `[a-z][a-z0-9_]{0,31}`.
    RoleName, "role", "1 to 32 letters, digits, `_` or `-`", |t| is_word(t, 32)
);

/// How an operation names its entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum EntityRef {
    /// By its id.
    Id(EntityId),
    /// By the name of the client that made it.
    Local(LocalId),
}

impl EntityRef {
    /// The id, if it is one.
    #[must_use]
    pub fn id(&self) -> Option<&EntityId> {
        match self {
            Self::Id(id) => Some(id),
            Self::Local(_) => None,
        }
    }

    /// The id or name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(id) => id.as_str(),
            Self::Local(local) => local.as_str(),
        }
    }
}

impl FromStr for EntityRef {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.starts_with(LOCAL) {
            LocalId::new(text).map(Self::Local)
        } else {
            EntityId::new(text).map(Self::Id)
        }
    }
}

impl<'de> Deserialize<'de> for EntityRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An entry of the conflict log: a UUIDv7, so entries sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ConflictId(pub Uuid);

impl ConflictId {
    /// The id of the entry beside this one's that tells of a backend that wrote over what waits: there is
    /// one at most, and it stands next to it in the order of ids.
    #[must_use]
    pub fn overruled(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() ^ 1))
    }
}

impl FromStr for ConflictId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let form = InvalidName { kind: "conflict", form: "a UUID" };
        Uuid::parse_str(text).map(Self).map_err(|_| form)
    }
}

impl fmt::Display for ConflictId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first change.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a project's sequence; it changes when a store is restored from a backup, so that a
/// cursor from the lost future is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Epoch(pub Uuid);

impl Epoch {
    /// One that no sequence had before.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One running hub process, for as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub Uuid);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One entity: its type and its id within the type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EntityKey {
    /// The entity's type.
    #[serde(rename = "type")]
    pub kind: EntityType,
    /// The entity's id.
    pub id: EntityId,
}

/// A room: what a connection subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Room {
    /// `project:{project}`: every change of the project that the subscriber's role may read.
    Project(ProjectId),
    /// `entity:{project}:{type}:{id}`: one entity's changes.
    Entity(ProjectId, EntityKey),
    /// `user:{user}`: that user's own inbox, on every device; joined by the server.
    User(UserId),
    /// `room:{project}:{name}`: broadcasts and presence only, nothing stored.
    Ephemeral(ProjectId, EntityId),
}

impl Room {
    /// The project the room belongs to; a user's inbox belongs to none.
    #[must_use]
    pub fn project(&self) -> Option<&ProjectId> {
        match self {
            Self::Project(project) | Self::Entity(project, _) | Self::Ephemeral(project, _) => {
                Some(project)
            }
            Self::User(_) => None,
        }
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Room {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Room".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`project:{project}`, `entity:{project}:{type}:{id}`, `user:{user}` or `room:{project}:{name}`",
        })
    }
}

impl FromStr for Room {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const FORM: InvalidName = InvalidName {
            kind: "room",
            form: "`project:{project}`, `entity:{project}:{type}:{id}`, `user:{user}` or `room:{project}:{name}`",
        };
        let mut parts = text.split(':');
        let mut part = || parts.next().ok_or(FORM);
        let room = match part()? {
            "project" => Self::Project(ProjectId::new(part()?)?),
            "entity" => Self::Entity(
                ProjectId::new(part()?)?,
                EntityKey { kind: EntityType::new(part()?)?, id: EntityId::new(part()?)? },
            ),
            "user" => Self::User(UserId::new(part()?)?),
            "room" => Self::Ephemeral(ProjectId::new(part()?)?, EntityId::new(part()?)?),
            _ => return Err(FORM),
        };
        if parts.next().is_some() { Err(FORM) } else { Ok(room) }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project(project) => write!(f, "project:{project}"),
            Self::Entity(project, entity) => {
                write!(f, "entity:{project}:{}:{}", entity.kind, entity.id)
            }
            Self::User(user) => write!(f, "user:{user}"),
            Self::Ephemeral(project, name) => write!(f, "room:{project}:{name}"),
        }
    }
}

impl Serialize for Room {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_read_back_as_they_were_written() {
        for text in
            ["project:p-1", "entity:p1:task:42 é", "user:ana@example.org", "room:p1:screen 7"]
        {
            assert_eq!(text.parse::<Room>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn names_outside_their_form_are_refused() {
        for text in [
            "",
            "project",
            "project:",
            "project:a b",
            "project:p:x",
            "entity:p:Task:1",
            "entity:p:task",
            "room:p:",
            "user:a\u{7}",
            "lobby:p",
        ] {
            assert!(text.parse::<Room>().is_err(), "{text:?} was taken for a room");
        }
        assert!(ProjectId::new(&"p".repeat(65)).is_err());
        assert!(EntityId::new(&"é".repeat(128)).is_ok());
        assert!(EntityId::new(&"é".repeat(129)).is_err());
    }
}
