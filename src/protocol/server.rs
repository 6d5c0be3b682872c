//! What the hub says: frames are built as borrowed structs and encoded once into a finished WebSocket
//! message ([`super::frame::text`]) that every recipient shares.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::RequestId;
use super::conflict::Conflict;
use super::error::Refusal;
use super::frame;
use super::op::{ChangeKind, StoredVerdict, Verdict};
use crate::id::{EntityKey, Epoch, OpId, ProjectId, RoleName, Room, Seq, UserId};

/// Everything the hub can say.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame<'a> {
    /// The session is open.
    Connected(Box<Connected<'a>>),
    /// The new token is in force.
    Refreshed {
        /// The request answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// Seconds until the new token expires.
        ttl: u64,
    },
    /// One answer per room of a `subscribe`, in its order.
    Subscribed {
        /// The request answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The answers.
        rooms: &'a [Subscribed],
    },
    /// The rooms were left.
    Unsubscribed {
        /// The request answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
    },
    /// Verdicts in the order of the operations.
    Written {
        /// The request answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The project written to.
        project: &'a ProjectId,
        /// One verdict per operation.
        #[cfg_attr(test, schemars(with = "Vec<super::op::Verdict>"))]
        verdicts: &'a [StoredVerdict],
    },
    /// A request without a richer answer was done.
    Ok {
        /// The request answered.
        id: &'a RequestId,
    },
    /// One change of the log.
    Change(Change<'a>),
    /// Changes up to `seq` exist that this reader's role may not read.
    Advance {
        /// The project.
        project: &'a ProjectId,
        /// The position reached.
        seq: Seq,
    },
    /// An ephemeral broadcast.
    Event {
        /// The room.
        room: &'a Room,
        /// The event's name.
        event: &'a str,
        /// Its data.
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a RawValue>,
        /// Who sent it; absent for a backend.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a UserId>,
    },
    /// Who came, went or changed their state in a room.
    Presence(PresenceDelta<'a>),
    /// Something this user should know, on every device.
    Notification(Notification<'a>),
    /// A conflict of this user's was opened, or is resolved; on every device.
    Conflict {
        /// The project.
        project: &'a ProjectId,
        /// The conflict.
        conflict: &'a Conflict,
    },
    /// An operation of this user's was tried again; on every device. Without the entity's fields, which
    /// come as changes: a device's token may read less than the one the operation was sent with.
    Verdict {
        /// The project.
        project: &'a ProjectId,
        /// What became of it, in the place of an earlier verdict.
        verdict: &'a Verdict,
    },
    /// The cursor of a room is of no use any more: fetch its state anew.
    Resync {
        /// The room.
        room: &'a Room,
        /// Why.
        reason: ResyncReason,
    },
    /// Access to a room was lost, or to a part of what it brings: purge what came from it.
    Gone {
        /// The room.
        room: &'a Room,
        /// Why.
        reason: GoneReason,
        /// What to purge, if it is not all.
        #[serde(flatten)]
        loss: Option<&'a Loss>,
    },
    /// The user's role in some projects is another now.
    Access {
        /// The projects concerned; null is one the user is in no more.
        projects: BTreeMap<&'a ProjectId, Option<ProjectGrant<'a>>>,
    },
    /// The token expires soon: send `refresh`.
    TokenExpiring {
        /// Seconds left.
        ttl: u64,
    },
    /// The hub is about to close this connection.
    Goodbye {
        /// Why.
        reason: &'static str,
        /// How long to wait before connecting again, already spread per connection.
        reconnect_in_ms: u64,
        /// Whether the cursors stay good.
        resume: bool,
    },
    /// Answers `ping`.
    Pong {
        /// The request answered.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
    },
    /// A request was refused.
    Error {
        /// The request answered, if it could be read.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// Why.
        #[serde(flatten)]
        refusal: &'a Refusal,
    },
}

impl ServerFrame<'_> {
    /// The frame as one finished WebSocket text message.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        frame::text(|payload| {
            serde_json::to_writer(payload, self)
                .expect("frames have string keys and finite numbers");
        })
    }
}

/// `connected`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connected<'a> {
    /// The request answered, if the client sent `connect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a RequestId>,
    /// This session's id, for logs and support.
    pub session: &'a str,
    /// Whom the token names.
    pub user: &'a UserId,
    /// Milliseconds since the Unix epoch.
    pub server_time: u64,
    /// Seconds until the token expires.
    pub ttl: u64,
    /// Seconds between the server's pings.
    pub ping_interval: u64,
    /// The projects the token grants.
    pub projects: BTreeMap<&'a ProjectId, ProjectGrant<'a>>,
    /// The limits in force for this connection, from the configuration.
    #[cfg_attr(test, schemars(with = "BTreeMap<String, u64>"))]
    pub limits: &'a RawValue,
}

/// What the token grants in one project.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProjectGrant<'a> {
    /// The role.
    pub role: &'a RoleName,
}

/// The answer for one room of a `subscribe`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Subscribed {
    /// The room as the client named it.
    pub room: String,
    /// The outcome.
    #[serde(flatten)]
    pub result: SubscribeResult,
}

/// How joining one room went.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum SubscribeResult {
    /// Joined.
    Joined {
        /// The position the live stream starts after, once what follows `since` was sent. Absent for
        /// rooms that hold no log.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<Seq>,
        /// The sequence `seq` belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// Whether everything after `since` is sent; false if there was no `since`.
        recovered: bool,
        /// What the role may read, as an opaque text: to be stored with the cursor. Absent for rooms that
        /// hold no log.
        #[serde(skip_serializing_if = "Option::is_none")]
        scope: Option<Box<str>>,
        /// Why the cursor cannot be resumed; the room is joined from `seq` on, fetch its state anew.
        #[serde(skip_serializing_if = "Option::is_none")]
        resync: Option<ResyncReason>,
        /// Who is here, if presence was asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        presence: Option<PresenceList>,
    },
    /// Refused.
    Refused {
        /// Why.
        error: Refusal,
    },
}

/// Who is present in a room.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PresenceList {
    /// How many users.
    pub users: u64,
    /// The members; only a sample in a room larger than `limits.presence_members`.
    pub members: Vec<Member>,
}

/// One user in a room, on one or more connections.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Member {
    /// The user.
    pub user: UserId,
    /// The latest state one of their connections set.
    #[serde(default, with = "raw_state")]
    #[cfg_attr(test, schemars(with = "serde_json::Value"))]
    pub state: Option<RawState>,
}

/// A member's state: any JSON, kept as the text it came as.
#[derive(Debug, Clone)]
pub struct RawState(pub std::sync::Arc<RawValue>);

impl PartialEq for RawState {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

mod raw_state {
    use super::{RawState, RawValue};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        state: &Option<RawState>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        match state {
            Some(RawState(raw)) => raw.serialize(s),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<RawState>, D::Error> {
        let raw: Box<RawValue> = Box::deserialize(d)?;
        Ok((raw.get() != "null").then(|| RawState(raw.into())))
    }
}

/// `presence`: who came, went or changed, or else `members`, who is here. An update is never a leave and a
/// join.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PresenceDelta<'a> {
    /// The room.
    pub room: &'a Room,
    /// Everyone, as in `subscribed`: what was said before is void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<&'a [Member]>,
    /// Users whose first connection joined.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub joined: &'a [Member],
    /// Users whose last connection left and did not come back within the grace.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub left: &'a [UserId],
    /// Users whose state changed.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub updated: &'a [Member],
    /// How many users are here now.
    pub users: u64,
}

/// Why there is something to purge.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GoneReason {
    /// The room may not be read any more; it is left.
    AccessLost,
    /// Another role reads less of it; the room goes on.
    ScopeChanged,
}

/// What a reader may not see any more of what it saw.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Types of entity; `*` is every type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Types that stay, if `types` is `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Fields by type; `*` is every type that stays.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Vec<String>>,
}

impl Loss {
    /// Whether nothing was lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.is_empty() && self.fields.is_empty()
    }
}

/// Why a cursor cannot be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The log no longer reaches back that far.
    CursorTooOld,
    /// The sequence was replaced, or the cursor is from a future that was lost.
    EpochChanged,
    /// The role now in force may read other types or fields than the one the cursor was kept under: some
    /// were not sent.
    ScopeChanged,
}

/// `change`: identical for every recipient of one visibility class.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change<'a> {
    /// The project.
    pub project: &'a ProjectId,
    /// Its position.
    pub seq: Seq,
    /// The entity changed.
    pub entity: &'a EntityKey,
    /// What happened to it.
    pub kind: ChangeKind,
    /// The entity's version now, equal to `seq`.
    pub version: Seq,
    /// The entity's version before; 0 for a create.
    pub prev: Seq,
    /// The changed fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<super::op::Fields>"))]
    pub fields: Option<&'a RawValue>,
    /// Who did it. This and what follows are absent for readers from whom all its fields are hidden.
    #[cfg_attr(test, schemars(with = "Option<String>", skip_serializing_if = "Option::is_none"))]
    pub actor: &'a str,
    /// When, in milliseconds since the Unix epoch by the hub's clock.
    #[cfg_attr(test, schemars(with = "Option<i64>", skip_serializing_if = "Option::is_none"))]
    pub at: i64,
    /// The operation that did it.
    #[cfg_attr(test, schemars(with = "Option<OpId>", skip_serializing_if = "Option::is_none"))]
    pub op_id: &'a OpId,
}

/// `notification`.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Notification<'a> {
    /// Its id; a client shows each id once.
    pub nid: &'a str,
    /// The project it came from.
    pub project: &'a ProjectId,
    /// The change it belongs to.
    pub seq: Seq,
    /// The title a person reads.
    pub title: &'a str,
    /// The text a person reads.
    pub body: &'a str,
    /// Data for the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<super::op::Fields>"))]
    pub data: Option<&'a RawValue>,
    /// A deep link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<&'a str>,
    /// How urgent.
    pub lane: super::op::Lane,
    /// What kind it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<&'a str>,
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
}
