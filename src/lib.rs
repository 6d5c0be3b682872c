//! Syncline: a self-hosted realtime sync hub.
//!
//! The module list reads as the data flow; `docs/ARCHITECTURE.md` tells the story.

pub mod app;
pub mod auth;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod fanout;
#[cfg(test)]
mod golden;
pub mod hub;
pub mod id;
pub mod ingest;
pub mod localtime;
pub mod net;
pub mod presence;
pub mod protocol;
pub mod push;
pub mod quota;
#[cfg(test)]
mod schema;
pub mod session;
pub mod shutdown;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod templates;
