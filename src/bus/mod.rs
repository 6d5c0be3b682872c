//! The bus: how the instances of one hub hear of each other.
//!
//! `app` opens it; the fan-out subscribes a topic for its first local subscriber, publishes what it
//! delivered locally, and reads [`Events`]. The bus is a shortcut and never the truth: it may drop a
//! message, and says when it may have ([`BusEvent::Healed`]); the store then tells what was missed.
//!
//! Invariants:
//! - a message of this instance never comes back to it;
//! - [`Bus::subscribe`] answers `Ok` only once the server confirmed the subscription;
//! - [`Bus::publish`] and [`Bus::unsubscribe`] never wait;
//! - after [`BusEvent::Suspect`], [`BusEvent::Healed`] comes only when every topic is subscribed again.

mod address;
mod link;

pub use link::{RedisLink, key};

use bytes::Bytes;

use crate::id::{ProjectId, UserId};

/// What can be wrong with the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The configured address is none. It may hold a password and is not repeated.
    #[error(
        "bus.url must be `local`, `redis://[user:password@]host:port` or `redis+cluster://host:port[,host:port…]`"
    )]
    InvalidUrl,
    /// A Redis link was asked for where the bus is local.
    #[error("bus.url is `local`: there is no Redis to talk to")]
    NotRedis,
    /// The link is down. A subscription is remembered and made when the link is back.
    #[error("the bus link is down")]
    LinkDown,
    /// Redis or the connection to it failed.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

/// What instances talk about. Reference counting is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A project's changes and ephemeral events.
    Project(ProjectId),
    /// A user's inbox.
    User(UserId),
    /// What concerns every instance.
    Control,
}

/// What the bus reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// Another instance published.
    Message {
        /// On which topic.
        topic: Topic,
        /// What it published.
        payload: Bytes,
        /// When, in milliseconds of the Unix epoch on the sender's clock.
        sent_at_ms: u64,
    },
    /// The link failed: messages are being missed until [`BusEvent::Healed`].
    Suspect,
    /// The link is up and every topic is subscribed. Anything may have been missed: heal from the store.
    Healed,
}
