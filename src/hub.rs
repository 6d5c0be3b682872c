//! What every connection shares: the parts of one running hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::auth::{Authenticator, Roles};
use crate::config::Config;
use crate::fanout::{ConnId, Relay};
use crate::id::InstanceId;
use crate::presence::Presence;
use crate::push::Acks;
use crate::quota::Quota;
use crate::store::Store;
use crate::sync::engine::Engine;
use crate::sync::pages::Pages;
use crate::telemetry::Metrics;

/// The parts of one running hub; made once by [`crate::app`].
#[derive(Debug)]
pub struct Hub {
    /// This process.
    pub instance: InstanceId,
    /// The configuration in force.
    pub config: Config,
    /// The limits as clients are told them.
    pub limits: Box<RawValue>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who is there.
    pub auth: Arc<Authenticator>,
    /// What they may do.
    pub roles: Roles,
    /// The way into the log.
    pub engine: Engine,
    /// The log itself, to read.
    pub store: Store,
    /// Reads of the log for those who catch up.
    pub pages: Pages,
    /// The way to the shards and to the other instances.
    pub relay: Arc<Relay>,
    /// Who is here.
    pub presence: Presence,
    /// Limits per user over all instances.
    pub quota: Quota,
    /// What clients have stored.
    pub acks: Acks,
    /// The runtime of everything that is not a connection.
    pub runtime: Handle,
    /// Set when the hub is about to stop: nobody new is let in.
    pub draining: CancellationToken,
    /// The last connection number given.
    pub last_conn: AtomicU64,
}

impl Hub {
    /// A number for a new connection.
    pub fn next_conn(&self) -> ConnId {
        self.last_conn.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The runtime limits as one JSON text, for `connected`.
    #[must_use]
    pub fn limits_json(config: &Config) -> Box<RawValue> {
        serde_json::value::to_raw_value(&config.limits).expect("limits are plain numbers")
    }
}
