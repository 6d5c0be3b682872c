use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[ingest]`: how backends publish through Redis. Needs a Redis bus; HTTP publishing is always there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ingest {
    /// Whether this instance consumes. Default true.
    pub enabled: bool,
    /// Pub/sub channel, best effort. Default `syncline:publish`.
    pub channel: String,
    /// Stream, at least once. Default `syncline:ingest`.
    pub stream: String,
    /// Consumer group of the hub's instances. Default `syncline`.
    pub group: String,
    /// Stream of events that cannot be applied, with the reason. Default `syncline:ingest:dead`.
    pub dead_letters: String,
    /// Entries read at once. Default 256.
    pub batch: usize,
    /// How long an entry may stay with a silent consumer before another takes it. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub claim_after: Duration,
    /// Deliveries after which an entry is a dead letter. Default 5.
    pub max_deliveries: u64,
    /// Applied entries kept in the stream. Default 10 000.
    pub keep: u64,
    /// Dead letters kept. Default 10 000.
    pub keep_dead: u64,
    /// Backends that sign their events; if any is named, unsigned events are refused. Default none.
    pub sources: Vec<Source>,
}

/// A backend that signs its events.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// The event's `source`.
    pub name: String,
    /// The secret of its HMAC-SHA256, at least 32 characters.
    pub secret: String,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            enabled: true,
            channel: "syncline:publish".into(),
            stream: "syncline:ingest".into(),
            group: "syncline".into(),
            dead_letters: "syncline:ingest:dead".into(),
            batch: 256,
            claim_after: Duration::from_secs(30),
            max_deliveries: 5,
            keep: 10_000,
            keep_dead: 10_000,
            sources: Vec::new(),
        }
    }
}
