//! Presence: who is in a room, per user, over all instances.
//!
//! Sessions call [`Presence::join`], [`Presence::update`] and [`Presence::leave`], which only note what
//! is wanted and wake a worker ([`Presence::run`], spawned by `app`). The worker hands [`News`] to the hub,
//! which delivers each to the local subscribers, and each [`Delta`] to the other instances.
//!
//! Invariants:
//! - a delta names every user who changed since what was last announced, as they are now: whoever was given
//!   the list in between is right after it. A leave and a join between two deltas are an update, a join and a
//!   leave a leave;
//! - each delta comes out once per cluster, on the instance whose worker announced it, and of one room at
//!   most one per `presence.batch`;
//! - a user is present from the first session until the last one left: at once if it said so, after
//!   `presence.grace` if it was lost, and within `presence.lease` if its instance died;
//! - a delta that was lost on its way is made up for: rooms have a version, and clients behind it are told
//!   anew who is here;
//! - the sessions of this instance are the truth about themselves: whatever Redis lost is told to it again.
//!
//! `room` is the pure core, `local` runs it in one process; `registry` holds this instance's sessions
//! (`session`), `heard` what its clients were told, and `redis` with its `worker` keeps Redis in step with
//! them.

mod heard;
mod local;
mod redis;
mod registry;
mod room;
mod script;
mod session;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bus::RedisLink;
use crate::config;
use crate::id::{InstanceId, Room, UserId};
use crate::protocol::server::{Member, PresenceList, RawState};

/// Most users whose changes go into one delta; the others follow in the next.
const DELTA_USERS: usize = 1000;

/// What changed in a room since the last delta. Also what instances tell each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The room.
    pub room: Room,
    /// Users who came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<Member>,
    /// Users who went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<UserId>,
    /// Users who stayed and whose state changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub updated: Vec<Member>,
    /// How many users are here now.
    pub users: u64,
    /// Rises with every delta of the room; 0 if nobody counts them.
    #[serde(default)]
    pub version: u64,
    /// The version of the delta before it; 0 if that is not known any more.
    #[serde(default)]
    pub prev: u64,
}

/// What the clients in a room are to be told.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// What changed, on this instance and on all others.
    Delta(Delta),
    /// Who is here: clients of this instance may have missed a delta.
    Whole(Room, PresenceList),
}

impl Delta {
    fn new(room: Room) -> Self {
        let (joined, left, updated) = (Vec::new(), Vec::new(), Vec::new());
        Self { room, joined, left, updated, users: 0, version: 0, prev: 0 }
    }

    /// In a room of more than `members`, joins and updates are a sample too.
    fn sampled(mut self, members: usize) -> Self {
        if self.users > members as u64 {
            self.joined.truncate(members);
            self.updated.truncate(members - self.joined.len());
        }
        self
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It unsubscribed or closed properly: it leaves at once.
    Explicit,
    /// Its connection broke: it may come back within the grace.
    Lost,
}

/// One page of a room's members, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PresencePage {
    /// How many users are in the room.
    pub users: u64,
    /// The members of this page.
    pub members: Vec<Member>,
    /// Where the next page starts; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<UserId>,
}

/// What can go wrong with a full listing.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// Redis does not answer, so that nobody knows the members of the other instances.
    #[error("presence is not available while Redis is down")]
    Unavailable(#[source] ::redis::RedisError),
}

/// Who is here. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Local(Arc<local::Local>),
    Redis(Arc<redis::Redis>),
}

impl Presence {
    /// Presence of a single instance.
    #[must_use]
    pub fn local(config: &config::Presence, news: mpsc::UnboundedSender<News>) -> Self {
        Self { kind: Kind::Local(Arc::new(local::Local::new(config.clone(), news))) }
    }

    /// Presence shared through Redis, under keys that start with `prefix`.
    #[must_use]
    pub fn redis(
        config: &config::Presence,
        prefix: &str,
        link: RedisLink,
        instance: InstanceId,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let scripts = script::Scripts::new(config, prefix, link);
        let redis = redis::Redis::new(config.clone(), scripts, instance, news);
        Self { kind: Kind::Redis(Arc::new(redis)) }
    }

    /// A session joins a room; `conn` names its connection within this instance. Joining again keeps the
    /// session, and its state unless there is a new one. A user's inbox has no presence.
    pub fn join(&self, room: &Room, user: &UserId, conn: u64, state: Option<RawState>) {
        match &self.kind {
            Kind::Local(local) => local.change(room, |r, _| r.join(user, conn, state)),
            Kind::Redis(redis) => redis.change(|r, now| r.join(room, user, conn, state, now)),
        }
    }

    /// A session in the room replaces its state; the user is shown with the state set last.
    pub fn update(&self, room: &Room, user: &UserId, conn: u64, state: RawState) {
        match &self.kind {
            Kind::Local(local) => local.change(room, |r, _| r.update(user, conn, state)),
            Kind::Redis(redis) => redis.change(|r, now| r.update(room, conn, state, now)),
        }
    }

    /// A session leaves a room; one that is not there is no error.
    pub fn leave(&self, room: &Room, user: &UserId, conn: u64, departure: Departure) {
        match &self.kind {
            Kind::Local(local) => local.leave(room, user, conn, departure),
            Kind::Redis(redis) => redis.change(|r, now| r.leave(room, conn, departure, now)),
        }
    }

    /// How many users are in the room and who, as many as a client is sent. While Redis is down: those
    /// of this instance. A session that joined just now may show in a delta only.
    pub async fn list(&self, room: &Room) -> PresenceList {
        match &self.kind {
            Kind::Local(local) => local.list(room),
            Kind::Redis(redis) => redis.list(room).await,
        }
    }

    /// The members after `after`, at most `limit` of them (and at most 1000).
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`] while Redis is down.
    pub async fn page(
        &self,
        room: &Room,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<PresencePage, PresenceError> {
        let limit = limit.clamp(1, DELTA_USERS);
        match &self.kind {
            Kind::Local(local) => Ok(local.page(room, after, limit)),
            Kind::Redis(redis) => redis.page(room, after, limit).await,
        }
    }

    /// Whether a delta, of this instance or another, is to be delivered to this instance's clients.
    pub fn heard(&self, delta: &Delta) -> bool {
        match &self.kind {
            Kind::Redis(redis) => redis.heard(delta),
            _ => true,
        }
    }

    /// Redis may have lost something: registers every session of this instance anew. Nobody who was
    /// known to be here is announced again.
    pub fn resync(&self) {
        if let Kind::Redis(redis) = &self.kind {
            redis.resync();
        }
    }

    /// The worker: announces, keeps time, renews the lease, clears up after dead instances. Cancelled, it
    /// hands the remaining sessions to the other instances as lost ones and ends.
    pub async fn run(self, shutdown: CancellationToken) {
        match self.kind {
            Kind::Local(local) => local.run(&shutdown).await,
            Kind::Redis(redis) => redis.run(&shutdown).await,
        }
    }
}
