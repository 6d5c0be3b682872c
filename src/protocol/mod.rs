//! The wire: bytes in, values out, and back. Pure: no sockets, no clock, no other module but [`crate::id`].
//!
//! [`frame`] cuts WebSocket frames, [`client`] reads what clients say, [`server`] writes what the hub
//! answers, [`op`] is the vocabulary of writes both sides share, [`notify`] whom a write has to reach, [`conflict`] how
//! two writes meet, [`checksum`] whether they arrived whole, [`json`] says which values are taken, [`sums`] is
//! what a client verifies its copy with, [`policy`] how it is to cache, [`error`] the typed codes.
//! `docs/PROTOCOL.md` is the same contract for readers.

pub mod checksum;
pub mod client;
pub mod conflict;
pub mod error;
pub mod frame;
pub mod json;
pub mod notify;
pub mod op;
pub mod policy;
pub mod server;
pub mod sums;

/// The WebSocket subprotocol the hub speaks (RFC 6455, section 1.9).
pub const SUBPROTOCOL: &str = "syncline.v1";

/// Prefix of the subprotocol entry that carries a token for clients that cannot set headers.
pub const BEARER_PROTOCOL_PREFIX: &str = "bearer.";
