//! A token bucket in twelve bytes: a connection holds several, and a user some more.
//!
//! Used by sessions for the limits per connection and by [`super::Quota`] for those per user. Pure: time
//! is an argument.

use std::sync::LazyLock;

use tokio::time::{Duration, Instant};

/// Where the buckets' clock starts: they store milliseconds since, which wrap after 49 days.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Refills at `rate` a second up to twice as many. A rate of 0 means no limit.
///
/// A request larger than the whole bucket is granted by a full one and leaves a debt, so that no request
/// is refused for ever and the rate holds in the long run.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    rate: f32,
    tokens: f32,
    at: u32,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: u32, now: Instant) -> Self {
        let rate = rate as f32;
        Self { rate, tokens: rate * 2.0, at: stamp(now) }
    }

    /// Takes `n` tokens; taking none tells whether the bucket is in debt.
    ///
    /// # Errors
    /// How long to wait before there are enough. Nothing is taken then.
    pub fn take(&mut self, n: u32, now: Instant) -> Result<(), Duration> {
        if self.rate == 0.0 {
            return Ok(());
        }
        self.refill(now);
        let needed = (n as f32).min(self.rate * 2.0);
        if self.tokens < needed {
            let ms = f64::from(needed - self.tokens) * 1000.0 / f64::from(self.rate);
            return Err(Duration::from_millis(ms.ceil() as u64));
        }
        self.tokens -= n as f32;
        Ok(())
    }

    /// Takes out what was consumed elsewhere, into debt if need be, but not further than a burst.
    pub fn drain(&mut self, n: u32, now: Instant) {
        self.refill(now);
        let floor = self.tokens.min(self.rate * -2.0);
        self.tokens = (self.tokens - n as f32).max(floor);
    }

    fn refill(&mut self, now: Instant) {
        let now = stamp(now);
        let elapsed = now.wrapping_sub(self.at);
        // Half the range back is a clock read earlier by another thread, not 49 days.
        if elapsed == 0 || elapsed > u32::MAX / 2 {
            return;
        }
        self.at = now;
        self.tokens = (self.tokens + elapsed as f32 * self.rate / 1000.0).min(self.rate * 2.0);
    }
}

/// Milliseconds since the start, also for an instant before it; wraps. Always rounded down, so that an
/// instant n ms after another is n stamps after it.
fn stamp(now: Instant) -> u32 {
    stamp_since(*START, now)
}

fn stamp_since(start: Instant, now: Instant) -> u32 {
    match now.checked_duration_since(start) {
        Some(since) => since.as_millis() as u32,
        None => (start.duration_since(now).as_nanos().div_ceil(1_000_000) as u32).wrapping_neg(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_is_small() {
        assert!(size_of::<TokenBucket>() <= 16);
    }

    #[test]
    fn a_request_larger_than_the_bucket_is_granted_once_and_paid_for() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, now);
        assert_eq!(bucket.take(50, now), Ok(()));
        assert_eq!(bucket.take(1, now), Err(Duration::from_millis(3100)));
        assert_eq!(bucket.take(1, now + Duration::from_millis(3100)), Ok(()));
    }

    #[test]
    fn stamps_are_as_far_apart_as_their_instants() {
        let start = Instant::now() + Duration::from_secs(1);
        for micros in [0, 1, 500, 999, 1000, 1500] {
            let before = start - Duration::from_micros(micros);
            let stamps = [0, 1, 2, 500].map(|ms| {
                let later = before + Duration::from_millis(ms);
                stamp_since(start, later).wrapping_sub(stamp_since(start, before))
            });
            assert_eq!(stamps, [0, 1, 2, 500], "{micros} µs before the start");
        }
    }

    #[test]
    fn a_drain_has_a_floor() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(10, now);
        bucket.drain(u32::MAX, now);
        assert_eq!(bucket.take(0, now), Err(Duration::from_secs(2)));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let now = Instant::now();
        assert_eq!(TokenBucket::new(0, now).take(u32::MAX, now), Ok(()));
    }

    proptest! {
        /// Over any stretch of requests, no more is granted than the burst and what flowed in.
        #[test]
        fn grants_hold_to_the_rate(
            rate in 1_u32..5000,
            requests in prop::collection::vec((0_u64..400, 0_u32..300), 1..200),
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut granted) = (TokenBucket::new(rate, start), start, 0_u64);
            for (pause, n) in requests {
                now += Duration::from_millis(pause);
                let n = n.min(rate * 2);
                if bucket.take(n, now).is_ok() {
                    granted += u64::from(n);
                }
                let flowed = (now - start).as_secs_f64() * f64::from(rate) + f64::from(rate) * 2.0;
                prop_assert!(granted as f64 <= flowed * 1.001 + 1.0, "{granted} > {flowed}");
            }
        }

        /// The wait is enough, and (but for rounding) not longer than needed.
        #[test]
        fn the_wait_is_right(rate in 1_u32..5000, first in 0_u32..20_000, n in 1_u32..20_000) {
            let now = Instant::now();
            let mut bucket = TokenBucket::new(rate, now);
            prop_assert!(bucket.take(first, now).is_ok());
            if let Err(wait) = bucket.take(n, now) {
                let early = wait.mul_f64(0.99).saturating_sub(Duration::from_millis(2));
                prop_assert!(bucket.clone().take(n, now + early).is_err());
                prop_assert!(bucket.take(n, now + wait + Duration::from_millis(1)).is_ok());
            }
        }
    }
}
