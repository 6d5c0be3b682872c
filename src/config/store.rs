use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[store]`: where the log lives.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `sqlite:PATH` or `postgres://user:password@host/database`. Default `sqlite:data/syncline.db`.
    pub url: String,
    /// Connections to PostgreSQL, or readers of SQLite. Default 8.
    pub connections: u32,
    /// How long a write waits for another instance's lock on the same project. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// Operations in one group commit. Default 256.
    pub group_ops: usize,
    /// Bytes of operations in one group commit. Default 1 MiB.
    pub group_bytes: usize,
    /// Operations waiting for one project's writer; above it writes are refused. Default 4096.
    pub queue_ops: usize,
    /// Bytes of operations, as sent, that wait or are written, of all projects; above it writes are refused. In
    /// memory they take several times as much. Default 64 MiB.
    pub queue_bytes: usize,
    /// Whether `serve` applies migrations at start. Default true.
    pub migrate: bool,
    /// Whether each request that writes leaves a row in `sync_log`. Default true.
    pub sync_log: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "sqlite:data/syncline.db".into(),
            connections: 8,
            lock_timeout: Duration::from_secs(2),
            group_ops: 256,
            group_bytes: 1 << 20,
            queue_ops: 4096,
            queue_bytes: 64 << 20,
            migrate: true,
            sync_log: true,
        }
    }
}
