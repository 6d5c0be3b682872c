//! One connection, from the upgrade to the close.
//!
//! [`state`] decides what a frame asks and whether it may be asked now (no I/O, no clock of its own);
//! [`shard`] is one thread's table of connections, which delivers and flushes; [`connection`] is the task
//! that reads one socket; [`commands`] and [`subscribe`] do what was asked.

pub mod commands;
pub mod connection;
pub mod shard;
pub mod state;
pub mod subscribe;
