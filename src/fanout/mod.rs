//! Fan-out: from a committed change to every subscribed socket, in order, encoded once.
//!
//! [`feed`] puts a project's changes in order and keeps the recent ones, [`feeds`] are all of them;
//! [`registry`] is one shard's rooms, `reader` one connection's reading in them, [`view`] what it sees,
//! [`users`] who is on the shard; [`queue`] is what waits for a shard, [`outbox`] for one socket; [`wire`] is
//! what instances tell each other, and [`relay`] passes it both ways. The shards themselves, with their
//! sockets, are in [`crate::session`].
//!
//! Invariant: nothing here awaits a socket or takes a lock per delivery.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::auth::Revocation;
use crate::id::{EntityType, Epoch, ProjectId, Room, Seq, UserId};

pub mod feed;
pub mod feeds;
pub mod outbox;
pub mod queue;
mod reader;
pub mod registry;
pub mod relay;
pub mod tally;
pub mod users;
pub mod view;
pub mod wire;

pub use feed::{EncodedChange, Feed};
pub use feeds::Feeds;
pub use queue::{ShardHandle, ShardQueue};
pub use relay::Relay;
pub use tally::Tally;

/// One connection of this process, never reused.
pub type ConnId = u64;

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
    /// A finished frame for every connection of a user that may read what it is about.
    User {
        /// The user.
        user: UserId,
        /// What the frame is about.
        about: Arc<About>,
        /// The message.
        frame: Bytes,
    },
    /// Close every connection whose token the revocation concerns.
    Revoke(Arc<Revocation>),
    /// Ask anew what a user's connections are granted.
    Regrant(UserId),
    /// Close the connections of a user that were opened until a moment.
    Disconnect(UserId, Instant),
    /// Say goodbye to everyone, spread over the configured time.
    Drain,
}

impl ToShard {
    /// Whether no connection gets more than one frame of it.
    #[must_use]
    pub fn is_one_frame(&self) -> bool {
        !matches!(self, Self::Changes(_, changes) if changes.len() > 1)
    }

    /// Bytes of the frames in it.
    fn bytes(&self) -> usize {
        match self {
            Self::Changes(_, changes) => changes.iter().map(|change| change.frame.len()).sum(),
            Self::Event { frame, .. } | Self::Presence(_, frame) | Self::User { frame, .. } => {
                frame.len()
            }
            Self::Overflow(_)
            | Self::NewEpoch(..)
            | Self::Revoke(_)
            | Self::Regrant(_)
            | Self::Disconnect(..)
            | Self::Drain => 0,
        }
    }
}

/// What a frame for a user is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The project.
    pub project: ProjectId,
    /// The type of entity; older instances do not say.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EntityType>,
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

    /// Sends a finished frame to those connections of a user on this instance that may read what it is
    /// about; returns how many queues were full.
    #[must_use]
    pub fn to_user(&self, user: &UserId, about: &Arc<About>, frame: &Bytes) -> usize {
        let Some(counts) = self.users.get(user.as_str()) else { return 0 };
        let has_some = self.shards.iter().zip(counts.iter()).filter(|(_, count)| **count > 0);
        let message =
            || ToShard::User { user: user.clone(), about: about.clone(), frame: frame.clone() };
        has_some.filter(|(shard, _)| !shard.send(message())).count()
    }

    /// Has the shards where a user is connected ask anew what they are granted. One whose queue is full
    /// asks for everyone when it next sweeps.
    pub fn regrant(&self, user: &UserId) {
        let Some(counts) = self.users.get(user.as_str()) else { return };
        for (shard, _) in self.shards.iter().zip(counts.iter()).filter(|(_, count)| **count > 0) {
            if !shard.send(ToShard::Regrant(user.clone())) {
                shard.regrant_all();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_cannot_be_told_of_a_regrant_asks_for_everyone() {
        let (handles, mut queues): (Vec<_>, Vec<_>) =
            (0..2).map(|_| ShardHandle::channel()).unzip();
        let fanout = Fanout::new(handles.into());
        let ana: UserId = "ana".parse().unwrap();
        fanout.regrant(&ana);
        fanout.user_connected(&ana, 1);
        fanout.regrant(&ana);
        assert!(queues[0].try_recv().is_none(), "nobody is connected there");
        assert!(matches!(queues[1].try_recv(), Some(ToShard::Regrant(user)) if user == ana));
        assert!(fanout.shards().iter().all(|shard| !shard.take_regrant_all()));
        while fanout.shards()[1].send(ToShard::Drain) {}
        fanout.regrant(&ana);
        assert!(!fanout.shards()[0].take_regrant_all());
        assert!(fanout.shards()[1].take_regrant_all());
        assert!(!fanout.shards()[1].take_regrant_all(), "once is enough");
    }
}
