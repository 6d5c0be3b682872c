//! One connection, from the upgrade to the close.
//!
//! [`state`] decides what a frame asks and whether it may be asked now (no I/O, no clock of its own);
//! [`shard`] is one thread and what it is told, [`table`] its connections, [`delivery`] the way from a frame
//! to sockets; [`connection`] is the task that reads one socket; [`sign_in`], [`commands`], [`subscribe`] and
//! [`catch_up`] do what was asked.

pub mod catch_up;
pub mod commands;
pub mod connection;
pub mod delivery;
pub mod shard;
pub mod sign_in;
pub mod state;
pub mod subscribe;
pub mod table;
