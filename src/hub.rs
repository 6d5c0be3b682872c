//! What every connection shares: the parts of one running hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::auth::{Access, Authenticator, Permit};
use crate::config::Config;
use crate::fanout::{Relay, Tally};
use crate::id::InstanceId;
use crate::ingest::Ingest;
use crate::presence::Presence;
use crate::protocol::client::Write;
use crate::protocol::error::Refusal;
use crate::push::decide::Policy;
use crate::push::{Acks, Live};
use crate::quota::{Kind, Quota};
use crate::store::Store;
use crate::sync::checksums::Checksums;
use crate::sync::delta::Deltas;
use crate::sync::engine::Engine;
use crate::sync::members::Members;
use crate::sync::pages::Pages;
use crate::telemetry::{Metrics, resident_memory};

/// The parts of one running hub; made once by [`crate::app`].
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
    pub access: Arc<Access>,
    /// The way to change who is in a project.
    pub members: Members,
    /// The way into the log.
    pub engine: Engine,
    /// The way into the log for backends.
    pub ingest: Ingest,
    /// The log itself, to read.
    pub store: Store,
    /// Reads of the log for those who catch up.
    pub pages: Pages,
    /// Reads of the state for those who were away.
    pub deltas: Deltas,
    /// What their copies have to add up to.
    pub checksums: Checksums,
    /// The way to the shards and to the other instances.
    pub relay: Arc<Relay>,
    /// Connections that are no WebSocket, or not yet.
    pub guests: Tally,
    /// Who is here.
    pub presence: Presence,
    /// Limits per user over all instances.
    pub quota: Quota,
    /// What clients have stored.
    pub acks: Acks,
    /// Who has a connection here.
    pub live: Live,
    /// What becomes of a push that is due.
    pub push: Arc<Policy>,
    /// The runtime of everything that is not a connection.
    pub runtime: Handle,
    /// Set when the hub is about to stop: nobody new is let in.
    pub draining: CancellationToken,
    /// Whether there is memory for one more connection.
    pub memory: Memory,
    /// The last connection number given.
    pub last_conn: AtomicU64,
}

impl Hub {
    /// A number for a new connection.
    pub fn next_conn(&self) -> u64 {
        self.last_conn.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Leaves a record of a write that is refused before any of its operations is looked at. It takes as much
    /// of the user's rate as an operation; beyond that rate there are no records.
    pub fn note_refused(
        &self,
        permit: &Permit,
        client: &str,
        write: Option<&Write>,
        refusal: &Refusal,
    ) {
        if self.quota.take(permit.user(), Kind::Ops, 1).is_ok() {
            let ops = write.map_or(&[][..], |write| &write.ops);
            self.engine.refused(permit, client, ops, refusal.code);
        }
    }

    /// The runtime limits as one JSON text, for `connected`.
    #[must_use]
    pub fn limits_json(config: &Config) -> Box<RawValue> {
        serde_json::value::to_raw_value(&config.limits).expect("limits are plain numbers")
    }
}

/// The high-water mark of `limits.memory_bytes`.
#[derive(Debug)]
pub struct Memory {
    limit: u64,
    high: AtomicBool,
}

impl Memory {
    /// A mark at `limit` bytes; 0 turns it off.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, high: AtomicBool::new(false) }
    }

    /// Looks at the process's memory; called once a second.
    pub fn look(&self) {
        let high = self.limit > 0 && resident_memory().is_some_and(|now| now > self.limit);
        self.high.store(high, Ordering::Relaxed);
    }

    /// Whether the mark was passed when it was last looked.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::Relaxed)
    }
}
