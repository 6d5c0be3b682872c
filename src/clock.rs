//! The wall clock, for what is stored or sent; everything timed uses Tokio's clock, which tests pause.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// How wrong this process's clock is made to be, in milliseconds: so that it can be shown that the others
/// do not mind. From `CLOCK_WRONG_BY_MS_FOR_TESTS`; not a setting.
static WRONG_BY_MS: LazyLock<i64> = LazyLock::new(|| {
    let text = std::env::var("CLOCK_WRONG_BY_MS_FOR_TESTS").unwrap_or_default();
    text.parse().unwrap_or(0)
});

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    now.saturating_add(*WRONG_BY_MS)
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn now_s() -> i64 {
    now_ms() / 1000
}
