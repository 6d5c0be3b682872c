//! What goes into the store and comes out of it: plain values, no SQL.
//!
//! A commit is described from both sides here: [`Batch`] and [`Snapshot`] are what a plan decides on,
//! [`Effects`] is what it decided, [`Committed`] is what became true.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::Stamps;
use crate::id::{
    ConflictId, EntityId, EntityKey, EntityRef, EntityType, Epoch, LocalId, OpId, ProjectId,
    RoleName, Seq, UserId,
};
use crate::protocol::conflict::Conflict;
use crate::protocol::op::{ChangeKind, Fields, Lane, Op, Outcome, StoredVerdict};

/// The operations of one project that are to be decided and committed together.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The project; it may appear in one batch of a commit only.
    pub project: &'a ProjectId,
    /// The operations, in the order they are decided.
    pub ops: &'a [PendingOp],
}

/// An operation on its way into the log, with what the hub knows about it beyond its text.
#[derive(Debug, Clone)]
pub struct PendingOp {
    /// What was asked.
    pub op: Op,
    /// Who asked.
    pub actor: Actor,
    /// SHA-256 of the operation as it was sent: the same `op_id` with another hash is a client's fault.
    pub payload_hash: [u8; 32],
    /// When the edit was made, in milliseconds since the Unix epoch, if the client said so; corrected by
    /// what its clock was off.
    pub edited_at: Option<i64>,
    /// The local ids in it, of the entity itself and in fields that refer to others.
    pub locals: Vec<(EntityType, LocalId)>,
    /// What the actor must not see or do.
    pub access: Access,
    /// Why it is to be rejected; nothing else is looked at then.
    pub refused: Option<Refused>,
    /// Takes effect together with the operation before it, or not at all.
    pub joined: bool,
    /// Decide again if it was rejected before.
    pub retry: bool,
    /// The version the backend gave the entity; an event that is not newer is not applied.
    pub source: Option<SourceVersion>,
    /// Act on whatever is there, without regard to `base`: a create updates what exists. So backends
    /// write.
    pub upsert: bool,
}

impl PendingOp {
    /// An operation nothing is known about but its text and its actor.
    #[must_use]
    pub fn new(op: Op, actor: Actor, payload_hash: [u8; 32]) -> Self {
        Self {
            edited_at: op.edited_at,
            op,
            actor,
            payload_hash,
            locals: Vec::new(),
            access: Access::default(),
            refused: None,
            joined: false,
            retry: false,
            source: None,
            upsert: false,
        }
    }

    /// An entity by the actor's own name for it.
    #[must_use]
    pub fn local_name(&self, kind: &EntityType, id: &LocalId) -> LocalName {
        let Actor { user, client } = self.actor.clone();
        LocalName { user, client, kind: kind.clone(), id: id.clone() }
    }
}

/// What a verdict must not tell the actor, and an indirect operation must not do for them.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The role's name.
    pub role: Box<str>,
    /// Fields of the entity's type that the actor's role does not see.
    pub hidden: Vec<Box<str>>,
    /// The role does not delete entities of the type.
    pub no_delete: bool,
}

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Who wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The user's id, or the source's name for a backend.
    pub user: String,
    /// The installation, or the source's name for a backend.
    pub client: String,
}

/// An entity's version as a backend counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceVersion {
    /// The backend.
    pub source: String,
    /// Its version of the entity.
    pub version: i64,
}

/// The state of a project a plan decides on, read under the project's lock.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The project.
    pub project: ProjectId,
    /// The position of its last change.
    pub head: Seq,
    /// The identity of its sequence.
    pub epoch: Epoch,
    /// Verdicts already given to operations of this batch.
    pub verdicts: HashMap<OpId, Recorded>,
    /// The entities this batch is about, tombstones included; absent if never created.
    pub entities: HashMap<EntityKey, EntityRow>,
    /// The ids of entities that clients named themselves.
    pub mappings: HashMap<LocalName, EntityId>,
    /// The conflicts this batch resolves, and the open ones about entities that backends write.
    pub conflicts: HashMap<ConflictId, Parked>,
    /// How many members have each role; counted only if an operation of a client wants to notify members.
    pub members: HashMap<RoleName, u64>,
}

/// A client's own name for an entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalName {
    /// The user.
    pub user: String,
    /// The installation.
    pub client: String,
    /// The entity's type.
    pub kind: EntityType,
    /// The name.
    pub id: LocalId,
}

/// A conflict as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Parked {
    /// What clients see of it.
    pub conflict: Conflict,
    /// The parked operation; none if it was decided at once.
    pub op: Option<Op>,
}

/// A verdict given before.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// SHA-256 of the operation it was given to.
    pub payload_hash: [u8; 32],
    /// The user it was given to; empty if an older binary stored it.
    pub user: String,
    /// The verdict, byte for byte.
    pub verdict: StoredVerdict,
    /// What it says.
    pub outcome: Outcome,
    /// Whether the operation is in the failed lane, and so may be decided anew.
    pub kept: bool,
}

/// An entity as it stands, or its tombstone.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityRow {
    /// The position of its last change.
    pub version: Seq,
    /// Whether it was deleted.
    pub deleted: bool,
    /// All its fields; empty if deleted.
    pub fields: Fields,
    /// What a deleted entity's fields were, so that a late edit can bring it back.
    pub buried: Fields,
    /// Who set each field last.
    pub stamps: Stamps,
    /// The newest version of it that each backend has sent.
    pub source_versions: BTreeMap<String, i64>,
    /// Bytes of its fields as JSON text, or a little more.
    pub bytes: usize,
}

/// What a plan decided; [`super::Store::commit`] writes it as it is.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// One per operation, in their order.
    pub answers: Vec<Answer>,
    /// What enters the log: dense, starting after the snapshot's head.
    pub entries: Vec<LogEntry>,
    /// Each touched entity once, in its final state.
    pub entities: Vec<(EntityKey, EntityRow)>,
    /// Who is to hear of it; each also arms a push.
    pub notifications: Vec<Draft>,
    /// Ids given to what clients had named themselves.
    pub mappings: Vec<(LocalName, EntityId)>,
    /// Entries of the conflict log, new or changed.
    pub conflicts: Vec<Parked>,
    /// Operations that leave the failed lane, because others are in their place.
    pub replaced: Vec<OpId>,
}

/// The answer to one operation.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Nothing is stored: a verdict given before, or the refusal of a reused `op_id`.
    Replayed(StoredVerdict),
    /// A verdict stored in the same transaction as its effect. At most one per `op_id`.
    New(Given),
}

/// A new verdict, with what the store keeps beside it.
#[derive(Debug, Clone)]
pub struct Given {
    /// What the client is told.
    pub verdict: StoredVerdict,
    /// What it says.
    pub outcome: Outcome,
    /// Why, for programs.
    pub code: Option<String>,
    /// The entity, by its id if it has one.
    pub id: EntityRef,
    /// It takes the place of an earlier verdict: the operation was tried again.
    pub again: bool,
}

impl Answer {
    /// What the client is told.
    #[must_use]
    pub fn verdict(&self) -> &StoredVerdict {
        match self {
            Self::Replayed(verdict) | Self::New(Given { verdict, .. }) => verdict,
        }
    }

    /// The verdict alone.
    #[must_use]
    pub fn into_verdict(self) -> StoredVerdict {
        match self {
            Self::Replayed(verdict) | Self::New(Given { verdict, .. }) => verdict,
        }
    }
}

/// One change in a project's log.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// Its position, and the entity's version after it.
    pub seq: Seq,
    /// The entity changed.
    pub entity: EntityKey,
    /// What happened to it.
    pub kind: ChangeKind,
    /// The entity's version before; 0 for a create.
    pub prev: Seq,
    /// The changed fields; none for a delete.
    pub fields: Option<Box<RawValue>>,
    /// Who did it: [`Actor::user`].
    pub actor: String,
    /// On which installation: [`Actor::client`].
    pub client: String,
    /// The operation that caused it.
    pub op_id: OpId,
    /// When, in milliseconds since the Unix epoch by the hub's clock.
    pub at: i64,
}

/// A notification to store for an audience, with the push that follows unless they acknowledge in time.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Who is to hear of it.
    pub audience: Audience,
    /// The change it is about.
    pub seq: Seq,
    /// The type of the entity that changed: only who reads it is told.
    pub about: EntityType,
    /// The title a person reads live and in the inbox.
    pub title: String,
    /// The text a person reads there.
    pub body: String,
    /// The template that makes the text for each device; none if title and text are all there is.
    pub template: Option<String>,
    /// The template's variables, a JSON object.
    pub vars: Option<String>,
    /// A JSON object for the app.
    pub data: Option<String>,
    /// A deep link.
    pub link: Option<String>,
    /// How urgent.
    pub lane: Lane,
    /// Pushes of one key are gathered.
    pub collapse: Option<String>,
    /// What kind it is.
    pub category: Option<String>,
    /// When it is due; none is at once.
    pub schedule: Option<Schedule>,
    /// How long an acknowledgement of who has a connection is waited for, in milliseconds.
    pub grace: i64,
    /// How long the push is of use once it is due, in milliseconds.
    pub ttl: i64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: i64,
}

/// Who is to hear of something, before the project's members are known.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    /// Those named, without the actor.
    pub users: Vec<UserId>,
    /// Who did it, and is not told.
    pub actor: String,
    /// Roles that may read the entity's type; a member with another one is not told.
    pub readers: Vec<RoleName>,
    /// Members with one of these roles are told.
    pub member_roles: Vec<RoleName>,
}

/// When a notification is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// In milliseconds since the Unix epoch; for a `local` time the earliest it can be.
    pub at: i64,
    /// A time on the recipient's own clock.
    pub local: Option<String>,
}

/// A draft for one of its recipients.
#[derive(Debug, Clone)]
pub struct NewNotification {
    /// Its id, a UUIDv7; a device shows each once.
    pub nid: String,
    /// Who is to hear of it.
    pub user: UserId,
    /// What they are to hear.
    pub draft: Arc<Draft>,
}

/// What a commit made true for one project.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The project.
    pub project: ProjectId,
    /// The identity of its sequence.
    pub epoch: Epoch,
    /// The position of its last change, this commit's included.
    pub head: Seq,
    /// One per operation, in their order.
    pub answers: Vec<Answer>,
    /// What entered the log.
    pub entries: Vec<LogEntry>,
    /// What was stored for users.
    pub notifications: Vec<NewNotification>,
    /// What changed in the conflict log.
    pub conflicts: Vec<Parked>,
}

/// Where a project's sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The identity of the sequence.
    pub epoch: Epoch,
    /// The position of the last change.
    pub head: Seq,
    /// Changes up to and including this one are no longer in the log.
    pub floor: Seq,
}

/// Part of the log, with the head read in the same snapshot.
#[derive(Debug, Clone)]
pub struct LogPage {
    /// The changes, in order. The log is read to its end once the last one's `seq` is `head`.
    pub entries: Vec<LogEntry>,
    /// The position of the project's last change.
    pub head: Seq,
    /// The identity of the sequence.
    pub epoch: Epoch,
    /// Changes up to and including this one are no longer in the log.
    pub floor: Seq,
}

/// A revocation in force, as the text every instance understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationRow {
    /// A JSON text; its identity.
    pub body: String,
    /// When it is of no use any more, in seconds since the Unix epoch.
    pub expires_at: i64,
}
