//! Fan-out: from a committed change to every subscribed socket, in order, encoded once.
//!
//! [`feed`] puts a project's changes in order and keeps the recent ones, [`feeds`] are all of them;
//! [`registry`] is one shard's rooms, `reader` one connection's reading in them, [`users`] who is on the
//! shard; [`outbox`] is what waits for one socket; [`wire`] is what instances tell each other, and
//! [`relay`] passes it both ways. The shards themselves, with their sockets, are in
//! [`crate::session`].
//!
//! Invariant: nothing here awaits a socket or takes a lock per delivery.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use tokio::sync::mpsc;

use crate::auth::{Disconnect, Revocation};
use crate::id::{Epoch, ProjectId, Room, Seq, UserId};

pub mod feed;
pub mod feeds;
pub mod outbox;
mod reader;
pub mod registry;
pub mod relay;
pub mod tally;
pub mod users;
pub mod wire;

pub use feed::{EncodedChange, Feed};
pub use feeds::Feeds;
pub use relay::Relay;
pub use tally::Tally;

/// One connection of this process, never reused.
pub type ConnId = u64;

/// Messages that may wait for one shard. Beyond it an ephemeral message is dropped and counted; changes
/// are not sent but kept in the feed, from where they are sent again.
const SHARD_QUEUE: usize = 16_384;

/// What the rest of the program tells a shard.
#[derive(Debug, Clone)]
pub enum ToShard {
    /// Changes of one project, dense and in order.
    Changes(ProjectId, Arc<[Arc<EncodedChange>]>),
    /// This shard fell so far behind that the feed no longer has what it misses.
    Overflow(ProjectId),
    /// The project's sequence was replaced: cursors are void, the log now stands at this position.
    NewEpoch(ProjectId, Epoch, Seq),
    /// A finished frame for everyone in an ephemeral room but its sender.
    Event {
        /// The room.
        room: Arc<Room>,
        /// The message.
        frame: Bytes,
        /// The sender, if it is a connection of this process.
        except: Option<ConnId>,
    },
    /// A finished presence frame for those in a room who asked for presence.
    Presence(Arc<Room>, Bytes),
    /// A finished frame for every connection of a user whose token grants the project it is about.
    User {
        /// The user.
        user: UserId,
        /// What the frame is about.
        project: ProjectId,
        /// The message.
        frame: Bytes,
    },
    /// Close every connection whose token the revocation concerns.
    Revoke(Arc<Revocation>),
    /// Close the connections of a user that an administrator ended.
    Disconnect(Disconnect),
    /// Say goodbye to everyone, spread over the configured time.
    Drain,
}

/// The sending side of one shard's queue.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    queue: mpsc::Sender<ToShard>,
}

impl ShardHandle {
    /// A shard's queue: the handle and the end the shard reads.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<ToShard>) {
        let (queue, receiver) = mpsc::channel(SHARD_QUEUE);
        (Self { queue }, receiver)
    }

    /// Puts a message into the queue unless it is full; whether it did.
    #[must_use]
    pub fn send(&self, message: ToShard) -> bool {
        self.queue.try_send(message).is_ok()
    }
}

/// Where users and projects have connections on this instance.
#[derive(Debug)]
pub struct Fanout {
    shards: Arc<[ShardHandle]>,
    /// Connections of each user, per shard.
    users: DashMap<UserId, Box<[u32]>>,
    connections: Tally,
}

impl Fanout {
    /// A fan-out over these shards.
    #[must_use]
    pub fn new(shards: Arc<[ShardHandle]>) -> Self {
        Self { shards, users: DashMap::new(), connections: Tally::default() }
    }

    /// The shards, by index.
    #[must_use]
    pub fn shards(&self) -> &Arc<[ShardHandle]> {
        &self.shards
    }

    /// Counts a user's new connection; returns how many they have now on this instance.
    pub fn user_connected(&self, user: &UserId, shard: usize) -> u32 {
        if let Some(mut counts) = self.users.get_mut(user.as_str()) {
            counts[shard] += 1;
            return counts.iter().sum();
        }
        let mut counts =
            self.users.entry(user.clone()).or_insert_with(|| vec![0; self.shards.len()].into());
        counts[shard] += 1;
        counts.iter().sum()
    }

    /// Forgets a user's connection; returns how many they have left on this instance.
    pub fn user_disconnected(&self, user: &UserId, shard: usize) -> u32 {
        let left = match self.users.get_mut(user.as_str()) {
            Some(mut counts) => {
                counts[shard] = counts[shard].saturating_sub(1);
                counts.iter().sum()
            }
            None => return 0,
        };
        if left == 0 {
            self.users.remove_if(user.as_str(), |_, counts| counts.iter().all(|n| *n == 0));
        }
        left
    }

    /// Whether a user has a connection on this instance.
    #[must_use]
    pub fn is_connected(&self, user: &UserId) -> bool {
        self.users.contains_key(user.as_str())
    }

    /// The users with a connection on this instance.
    #[must_use]
    pub fn connected_users(&self) -> Vec<UserId> {
        self.users.iter().map(|entry| entry.key().clone()).collect()
    }

    /// Sends a finished frame about a project to every connection of a user on this instance; returns how
    /// many queues were full.
    #[must_use]
    pub fn to_user(&self, user: &UserId, project: &ProjectId, frame: &Bytes) -> usize {
        let Some(counts) = self.users.get(user.as_str()) else { return 0 };
        let has_some = self.shards.iter().zip(counts.iter()).filter(|(_, count)| **count > 0);
        let message =
            || ToShard::User { user: user.clone(), project: project.clone(), frame: frame.clone() };
        has_some.filter(|(shard, _)| !shard.send(message())).count()
    }

    /// Sends a message to every shard; returns how many queues were full.
    pub fn to_all(&self, message: &ToShard) -> usize {
        self.shards.iter().filter(|shard| !shard.send(message.clone())).count()
    }

    /// Counts a new connection in.
    pub fn admit(&self, ip: IpAddr) {
        self.connections.add(ip);
    }

    /// Forgets a connection counted by [`Self::admit`].
    pub fn release(&self, ip: IpAddr) {
        self.connections.remove(ip);
    }

    /// Connections from an address on this instance.
    #[must_use]
    pub fn connections_from(&self, ip: IpAddr) -> usize {
        self.connections.from(ip)
    }

    /// Connections on this instance.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.all()
    }
}
