//! The wall clock, for what is stored or sent; everything timed uses Tokio's clock, which tests pause.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn now_s() -> i64 {
    now_ms() / 1000
}
