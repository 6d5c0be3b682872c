use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[retention]`: how long what is no longer current is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// How often what is past its time is purged; 0 turns that off. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Changes in the log. Default 30 days.
    #[serde(with = "humantime_serde")]
    pub log: Duration,
    /// Tombstones of deleted entities. Default 90 days.
    #[serde(with = "humantime_serde")]
    pub tombstones: Duration,
    /// Verdicts: as long as an operation may be sent again. Default 180 days.
    #[serde(with = "humantime_serde")]
    pub verdicts: Duration,
    /// Operations in the failed lane of one user in one project; the oldest go first, their verdicts stay.
    /// Default 10 000.
    pub failed_ops: u32,
    /// Conflicts, after they were decided. Default 180 days.
    #[serde(with = "humantime_serde")]
    pub conflicts: Duration,
    /// Conflicts nobody has decided, with the operations that wait for that. Default 365 days.
    #[serde(with = "humantime_serde")]
    pub open_conflicts: Duration,
    /// Records of the log of requests. Default 30 days.
    #[serde(with = "humantime_serde")]
    pub sync_log: Duration,
    /// What users were notified of, read or not. Default 90 days.
    #[serde(with = "humantime_serde")]
    pub notifications: Duration,
    /// How far a device is, after it was last seen. Default 180 days.
    #[serde(with = "humantime_serde")]
    pub devices: Duration,
    /// A device seen within this time holds back the log and the tombstones it has not acknowledged.
    /// Default 30 days.
    #[serde(with = "humantime_serde")]
    pub consumers: Duration,
    /// But nothing is kept for a device that is older than this: the device is told to resync. Only what is
    /// longer than `log` or `tombstones` makes devices hold those back. Default 180 days.
    #[serde(with = "humantime_serde")]
    pub max_lag: Duration,
    /// Rows purged in one transaction. Default 1000.
    pub batch: u32,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            interval: Duration::from_secs(3600),
            log: Duration::from_secs(30 * DAY),
            tombstones: Duration::from_secs(90 * DAY),
            verdicts: Duration::from_secs(180 * DAY),
            failed_ops: 10_000,
            conflicts: Duration::from_secs(180 * DAY),
            open_conflicts: Duration::from_secs(365 * DAY),
            sync_log: Duration::from_secs(30 * DAY),
            notifications: Duration::from_secs(90 * DAY),
            devices: Duration::from_secs(180 * DAY),
            consumers: Duration::from_secs(30 * DAY),
            max_lag: Duration::from_secs(180 * DAY),
            batch: 1000,
        }
    }
}
