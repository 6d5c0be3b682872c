//! The edge: listeners, the upgrade to a WebSocket, the HTTP endpoints, the operators' listener.
//!
//! [`server`] accepts on every shard and serves HTTP; [`upgrade`] takes the socket out of it;
//! [`api`] and [`admin`] are the same commands for those who cannot hold a socket, for backends and for
//! operators; `notifications` and `push` are the inbox and the devices of users; [`problem`] is the one mapping of refusals to HTTP; [`operator`] is the second listener.

pub mod admin;
pub mod api;
mod notifications;
pub mod operator;
pub mod problem;
pub mod publish;
mod push;
pub mod server;
pub mod upgrade;
