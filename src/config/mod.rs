//! The configuration: one small struct per concern, each field's doc its meaning, default and unit.
//!
//! `config/syncline.toml` is the same as text, with every default; a test keeps the two equal. Values
//! come from the file, then the environment (`SYNCLINE_SECTION__KEY`), then flags.

use serde::{Deserialize, Serialize};

mod auth;
mod bus;
mod dev;
mod entities;
mod ingest;
mod limits;
mod load;
mod log;
mod presence;
mod problem;
/// `[push]`, the largest section: its parts have names of their own.
pub mod push;
mod reader;
pub mod redact;
mod retention;
mod roles;
mod schema;
mod server;
mod store;
mod validate;
mod validate_auth;
mod validate_push;

pub use auth::{Auth, Hmac, Jwks, Memberships, PublicKey};
pub use bus::Bus;
pub use dev::{DevInfo, data_dir, dev};
pub use entities::{Entities, Entity, Field};
pub use ingest::{Ingest, Source};
pub use limits::Limits;
pub use load::{Loaded, load, read};
pub use log::{Log, LogFormat};
pub use presence::Presence;
pub use problem::{ConfigErrors, Origin, Problem, Severity};
pub use push::{Expo, Push};
pub use retention::Retention;
pub use roles::{Role, Roles};
pub use server::Server;
pub use store::Store;

/// Everything the hub can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listeners, threads, heartbeats, drain.
    pub server: Server,
    /// Who may connect.
    pub auth: Auth,
    /// What a role may do.
    pub roles: Roles,
    /// How concurrent edits are resolved.
    pub entities: Entities,
    /// What a stranger may send, and how much.
    pub limits: Limits,
    /// Where the log lives.
    pub store: Store,
    /// How instances hear of each other.
    pub bus: Bus,
    /// Who is here.
    pub presence: Presence,
    /// How backends publish.
    pub ingest: Ingest,
    /// When an unacknowledged event becomes a push.
    pub push: Push,
    /// How long what is no longer current is kept.
    pub retention: Retention,
    /// What is written to standard error.
    pub log: Log,
}

#[cfg(test)]
mod tests;
