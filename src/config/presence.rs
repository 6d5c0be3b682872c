use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[presence]`: who is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Presence {
    /// How long a user whose last connection broke stays present. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// How often an instance renews its lease. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long a silent instance's members stay. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Members a client is sent in full; of a larger room it gets the count and a sample. Default 200.
    pub members: usize,
    /// Joins, leaves and updates of a room are gathered this long into one frame. Default 100 ms.
    #[serde(with = "humantime_serde")]
    pub batch: Duration,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(15),
            heartbeat: Duration::from_secs(3),
            lease: Duration::from_secs(10),
            members: 200,
            batch: Duration::from_millis(100),
        }
    }
}
