use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[bus]`: how instances hear of each other.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// `local` for a single instance; `redis://[user:password@]host:port`; for a Cluster
    /// `redis+cluster://host:port[,host:port…]`. Default `local`.
    pub url: String,
    /// Prefix of every key and channel. Default `syncline`.
    pub prefix: String,
    /// Silence after which the link is probed; nothing back by the next interval means reconnect. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// How often the heads of active projects are compared with the store. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub head_poll: Duration,
    /// The same while the bus is suspect. Default 500 ms.
    #[serde(with = "humantime_serde")]
    pub head_poll_suspect: Duration,
    /// How long an overtaken commit of another instance is waited for before the store is asked. Default 20 ms.
    #[serde(with = "humantime_serde")]
    pub gap_hold: Duration,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: "local".into(),
            prefix: "syncline".into(),
            probe_interval: Duration::from_secs(1),
            head_poll: Duration::from_secs(3),
            head_poll_suspect: Duration::from_millis(500),
            gap_hold: Duration::from_millis(20),
        }
    }
}
