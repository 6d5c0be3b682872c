//! The edge: listeners, the upgrade to a WebSocket, the HTTP endpoints, the operators' listener.
//!
//! [`server`] accepts on every shard, `first` reads what a connection begins with, [`upgrade`] answers a
//! WebSocket handshake; the rest is HTTP:
//! [`api`], [`admin`] and [`members`] are the same commands for those who cannot hold a socket, for backends and
//! for operators, `lane` and `status` tell of failed operations, `cors` lets browsers read them; `changes` and
//! `checksum` are delta sync, `policies` say how to cache; `notifications` and `push` are the inbox and the
//! devices of users; `demo` is a page for development; `guest` counts connections that are no
//! WebSocket, `patience` closes those that stop reading, `body` says whose bodies are read;
//! [`problem`] is the one mapping of refusals to
//! HTTP; [`operator`] is the second listener.

pub mod admin;
pub mod api;
mod body;
mod caller;
mod changes;
mod checksum;
mod conflicts;
mod cors;
mod demo;
mod first;
mod guest;
mod lane;
pub mod members;
mod notifications;
pub mod operator;
mod patience;
mod policies;
pub mod problem;
pub mod publish;
mod push;
mod request_id;
pub mod server;
mod status;
pub mod upgrade;
