//! An event as a backend writes it, and the operation or broadcast it becomes. Pure: bytes in, values out.
//!
//! Every member is checked here. An unknown member is an error, because a misspelt `source_version` that
//! is silently ignored costs data.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::config::Limits;
use crate::id::{EntityKey, EntityRef, OpId, ProjectId, RoleName, Room, Seq, UserId};
use crate::protocol::error::Refusal;
use crate::protocol::json;
use crate::protocol::op::{Fields, Lane, Notify, Op, OpKind};
use crate::store::{Actor, MemberEvent, PendingOp, SourceVersion};
use crate::sync::{limits, submission};

/// Who acts if the event names nobody.
const NOBODY: &str = "backend";
/// Characters of a source's name, and of a broadcast's event name.
const NAME: usize = 64;
/// How long an event without an id, heard on the channel, is known by its content, in milliseconds.
pub const CONTENT_WINDOW_MS: i64 = 2000;

/// What is wrong with an event. It will not be better next time.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// More bytes than `limits.op_bytes`.
    #[error("the event is larger than `limits.op_bytes` ({0})")]
    TooLarge(usize),
    /// More recipients than `limits.notify_users`.
    #[error("the event notifies more users than `limits.notify_users` ({0})")]
    TooManyRecipients(usize),
    /// Not JSON, a member of the wrong form, or an unknown one.
    #[error("the event is malformed: {}", json::reason(.0))]
    Malformed(#[from] serde_json::Error),
    /// A value that a reader could not read as it was written, or beyond a limit of fields.
    #[error("{}", .0.message)]
    Value(Refusal),
    /// A member is missing, or does not belong to the kind.
    #[error("{0}")]
    Unfit(&'static str),
}

impl EventError {
    /// The reason for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) | Self::TooManyRecipients(_) => "limit_exceeded",
            Self::Value(refusal) => refusal.code.as_str(),
            Self::Malformed(_) | Self::Unfit(_) => "bad_request",
        }
    }
}

/// An event that can be applied.
#[derive(Debug)]
pub struct Event {
    /// Its idempotency key, unless the backend leaves it to the hub.
    pub id: Option<OpId>,
    /// Where it happens.
    pub project: ProjectId,
    /// The backend, for signatures and versions.
    pub source: Option<String>,
    /// Who did it.
    pub actor: UserId,
    /// What happens.
    pub body: Body,
    /// Its bytes as sent.
    pub bytes: usize,
}

/// What an event does.
#[derive(Debug)]
pub enum Body {
    /// Something to a row of the log.
    Write(Box<Write>),
    /// Something to who is in the project.
    Member(Member),
    /// Something to who is listening.
    Broadcast(Broadcast),
}

/// A change of an entity.
#[derive(Debug)]
pub struct Write {
    kind: OpKind,
    entity: EntityKey,
    fields: Fields,
    source_version: Option<i64>,
    notify: Option<Notify>,
}

/// A user's role in the project.
#[derive(Debug, Serialize)]
pub struct Member {
    user: UserId,
    /// None takes the user out.
    role: Option<RoleName>,
}

/// An ephemeral event for a room.
#[derive(Debug)]
pub struct Broadcast {
    /// The room, of the event's project.
    pub room: Room,
    /// The name, for the receivers' dispatch.
    pub event: String,
    /// Any JSON.
    pub data: Option<Box<RawValue>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Upsert,
    Patch,
    Delete,
    Member,
    Broadcast,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    id: Option<OpId>,
    project: ProjectId,
    kind: Kind,
    entity: Option<EntityKey>,
    fields: Option<Fields>,
    source: Option<String>,
    source_version: Option<i64>,
    actor: Option<UserId>,
    notify: Option<Notify>,
    user: Option<UserId>,
    #[serde(default, deserialize_with = "given")]
    role: Option<Option<RoleName>>,
    room: Option<Room>,
    event: Option<String>,
    data: Option<Box<RawValue>>,
}

/// Tells `null` from a member that is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

impl Event {
    /// Reads an event.
    ///
    /// # Errors
    /// See [`EventError`].
    pub fn decode(raw: &[u8], limits: &Limits) -> Result<Self, EventError> {
        if raw.len() > limits.op_bytes {
            return Err(EventError::TooLarge(limits.op_bytes));
        }
        let text: &RawValue = serde_json::from_slice(raw)?;
        json::check(text).map_err(EventError::Value)?;
        let mut event: Raw = serde_json::from_str(text.get())?;
        if let Some(notify) = &event.notify {
            notify.check().map_err(EventError::Value)?;
        }
        if let Some(fields) = &event.fields {
            limits::fields(fields, limits).map_err(EventError::Value)?;
        }
        if event.source.as_ref().is_some_and(|name| !is_name(name)) {
            return Err(EventError::Unfit("`source` must have 1 to 64 printable characters"));
        }
        if event.notify.as_ref().is_some_and(|notify| notify.users.len() > limits.notify_users) {
            return Err(EventError::TooManyRecipients(limits.notify_users));
        }
        let body = match event.kind {
            Kind::Member => Body::Member(member(&mut event)?),
            _ if event.user.is_some() || event.role.is_some() => {
                return Err(EventError::Unfit("`user` and `role` belong to a member"));
            }
            Kind::Broadcast => Body::Broadcast(broadcast(&mut event)?),
            kind => Body::Write(Box::new(write(kind, &mut event)?)),
        };
        let name = event.actor.or_else(|| event.source.as_ref().and_then(|name| name.parse().ok()));
        Ok(Self {
            id: event.id,
            project: event.project,
            actor: name.unwrap_or_else(nobody),
            source: event.source,
            body,
            bytes: raw.len(),
        })
    }

    /// What it says about a member, if it does.
    #[must_use]
    pub fn member(&self) -> Option<MemberEvent> {
        let Body::Member(member) = &self.body else { return None };
        let text = serde_json::to_vec(member).expect("names are JSON");
        Some(MemberEvent {
            op_id: self.id.clone().unwrap_or_else(fresh_id),
            payload_hash: Sha256::digest(text).into(),
            user: member.user.clone(),
            role: member.role.clone(),
            client: self.client(),
        })
    }

    /// No client's name has a `:`, so none can pass its edits off as a source's.
    fn client(&self) -> String {
        format!("source:{}", self.source.as_deref().unwrap_or(NOBODY))
    }

    /// The operation for the engine; none unless it is about an entity. An event that was given no id is nobody's
    /// repetition of another, so it gets one nobody else has.
    #[must_use]
    pub fn operation(&self) -> Option<PendingOp> {
        let Body::Write(write) = &self.body else { return None };
        let op = Op {
            op_id: self.id.clone().unwrap_or_else(fresh_id),
            kind: write.kind,
            entity_type: write.entity.kind.clone(),
            id: EntityRef::Id(write.entity.id.clone()),
            base: Seq::ZERO,
            fields: write.fields.clone(),
            was: Fields::new(),
            edited_at: None,
            priority: Lane::Normal,
            group: None,
            conflict: None,
            choose: None,
            expected_version: None,
            replaces: None,
            notify: write.notify.clone(),
        };
        let source = self.source.as_deref().unwrap_or(NOBODY);
        // No client's name has a `:`, so none can pass its edits off as a source's.
        let actor = Actor { user: self.actor.to_string(), client: format!("source:{source}") };
        let hash = submission::hash(&op);
        Some(PendingOp {
            source: write
                .source_version
                .map(|version| SourceVersion { source: source.to_owned(), version }),
            upsert: true,
            ..PendingOp::new(op, actor, hash)
        })
    }
}

fn nobody() -> UserId {
    UserId::new(NOBODY).expect("the literal is a user's name")
}

/// An id nobody has.
#[must_use]
pub fn fresh_id() -> OpId {
    OpId::new(&uuid::Uuid::now_v7().to_string()).expect("a UUID is an operation's id")
}

/// The id of an event that has none, from its entry in the stream: the same at each delivery.
#[must_use]
pub fn entry_id(entry: &str, raw: &[u8]) -> OpId {
    // Entry ids start anew when a Redis does; the content tells such entries apart.
    OpId::new(&format!("entry-{entry}-{}", &content(raw)[..16])).unwrap_or_else(|_| fresh_id())
}

/// The id of an event that has none, from its content and the time it was heard at.
#[must_use]
pub fn content_id(raw: &[u8], now_ms: i64) -> OpId {
    let window = now_ms / CONTENT_WINDOW_MS;
    OpId::new(&format!("content-{}-{window}", content(raw))).expect("hexadecimal digits are an id")
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn content(raw: &[u8]) -> String {
    hex::encode(Sha256::digest(raw))
}

fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn write(kind: Kind, event: &mut Raw) -> Result<Write, EventError> {
    if event.room.is_some() || event.event.is_some() || event.data.is_some() {
        return Err(EventError::Unfit("`room`, `event` and `data` belong to a broadcast"));
    }
    if event.source_version.is_some() && event.source.is_none() {
        return Err(EventError::Unfit("`source_version` needs a `source`"));
    }
    let fields = event.fields.take();
    let kind = match kind {
        Kind::Upsert => OpKind::Create,
        Kind::Patch => OpKind::Update,
        _ => OpKind::Delete,
    };
    match (kind, &fields) {
        (OpKind::Delete, Some(_)) => {
            return Err(EventError::Unfit("a delete takes no `fields`"));
        }
        (OpKind::Create | OpKind::Update, None) => {
            return Err(EventError::Unfit("an upsert and a patch need `fields`"));
        }
        _ => {}
    }
    Ok(Write {
        kind,
        entity: event.entity.take().ok_or(EventError::Unfit("the event needs an `entity`"))?,
        fields: fields.unwrap_or_default(),
        source_version: event.source_version,
        notify: event.notify.take(),
    })
}

fn member(event: &mut Raw) -> Result<Member, EventError> {
    let entity = event.entity.is_some() || event.fields.is_some() || event.notify.is_some();
    let broadcast = event.room.is_some() || event.event.is_some() || event.data.is_some();
    if entity || broadcast || event.source_version.is_some() {
        return Err(EventError::Unfit(
            "a member has a `user` and a `role`, and nothing of other kinds",
        ));
    }
    let user = event.user.take().ok_or(EventError::Unfit("a member needs a `user`"))?;
    let role = event.role.take();
    let role =
        role.ok_or(EventError::Unfit("a member needs a `role`; `null` takes the user out"))?;
    Ok(Member { user, role })
}

fn broadcast(event: &mut Raw) -> Result<Broadcast, EventError> {
    let extra = event.entity.is_some() || event.fields.is_some();
    if extra || event.notify.is_some() || event.source_version.is_some() {
        return Err(EventError::Unfit(
            "a broadcast takes no `entity`, `fields`, `notify` or `source_version`",
        ));
    }
    let room = event.room.take().ok_or(EventError::Unfit("a broadcast needs a `room`"))?;
    if room.project() != Some(&event.project) {
        return Err(EventError::Unfit("the room is not one of the event's project"));
    }
    let name = event.event.take().ok_or(EventError::Unfit("a broadcast needs an `event`"))?;
    if !is_name(&name) {
        return Err(EventError::Unfit("`event` must have 1 to 64 printable characters"));
    }
    Ok(Broadcast { room, event: name, data: event.data.take() })
}

#[cfg(test)]
mod tests;
