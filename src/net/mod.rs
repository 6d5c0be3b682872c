//! The edge: listeners, the upgrade to a WebSocket, the HTTP endpoints, the operators' listener.
//!
//! [`server`] accepts on every shard and serves HTTP; [`upgrade`] takes the socket out of it;
//! [`api`], [`admin`] and [`members`] are the same commands for those who cannot hold a socket, for backends
//! and for operators; [`problem`] is the one mapping of refusals to HTTP; [`operator`] is the second listener.

pub mod admin;
pub mod api;
mod conflicts;
pub mod members;
pub mod operator;
pub mod problem;
pub mod publish;
pub mod server;
pub mod upgrade;
