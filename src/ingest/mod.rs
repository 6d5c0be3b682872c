//! What backends publish: through a Redis stream, a Redis channel, or HTTP, into the same engine.
//!
//! [`event`] reads an event, [`Ingest`] applies it, and the three ways ([`stream`], [`pubsub`],
//! [`crate::net::publish`]) differ only in what they promise about delivery. There is one mechanism for
//! "once": an event's id is the operation's id, and the store keeps one verdict for it.

pub mod apply;
mod claims;
pub mod event;
mod group;
pub mod pubsub;
pub mod stream;

pub use apply::{Applied, Authorized, Failed, Ingest};
