use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[push]`: when an event that asks to reach a person becomes a push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// Grace for an acknowledgement, lane critical. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub grace_critical: Duration,
    /// Grace for an acknowledgement, lane high. Default 1.5 s.
    #[serde(with = "humantime_serde")]
    pub grace_high: Duration,
    /// Grace for an acknowledgement, lane normal. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub grace_normal: Duration,
    /// How often due intents are looked for. Default 1 s.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
    /// How long a claimed intent stays with a silent worker. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
}

impl Default for Push {
    fn default() -> Self {
        Self {
            grace_critical: Duration::from_secs(1),
            grace_high: Duration::from_millis(1500),
            grace_normal: Duration::from_secs(5),
            poll: Duration::from_secs(1),
            lease: Duration::from_secs(30),
        }
    }
}
