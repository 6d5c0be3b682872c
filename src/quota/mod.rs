//! Rate limits per user that hold across instances, approximately and cheaply.
//!
//! Sessions and HTTP handlers call [`Quota::take`]: one local bucket per user and kind, no waiting. With
//! Redis, a worker ([`Quota::run`], spawned by `app`) adds what each active user took here to a counter
//! shared by all instances, and takes what was added elsewhere out of the local bucket. So a user spread
//! over instances is held to the limit after a few exchanges; without Redis the limit is per instance.
//!
//! Invariants: `take` never waits; the number of buckets is bounded; a user's memory here ends soon after
//! their last request.

mod bucket;
mod exchange;

use std::sync::Arc;

use dashmap::DashMap;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use crate::bus::RedisLink;
use crate::config;
use crate::id::UserId;
pub use bucket::TokenBucket;
use exchange::Exchange;

/// How often consumption is exchanged.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long an idle user's bucket is kept; it is full again after two seconds.
const IDLE: Duration = Duration::from_secs(5);
/// Most users with buckets. Beyond it a new user is not limited here; the limits per connection stand.
const USERS: usize = 200_000;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Operations on the log.
    Ops,
    /// Ephemeral broadcasts.
    Broadcasts,
}

/// The limits of all users. Cheap to clone.
#[derive(Clone)]
pub struct Quota {
    shared: Arc<Shared>,
}

struct Shared {
    rates: [u32; 2],
    users: DashMap<UserId, Usage>,
    exchange: Option<Exchange>,
}

/// One user's consumption here, by [`Kind`].
struct Usage {
    buckets: [TokenBucket; 2],
    /// Taken here and not yet told to the others.
    untold: [u64; 2],
    /// The shared counters as last read, and when.
    seen: Option<(Instant, [u64; 2])>,
    used_at: Instant,
}

impl Usage {
    fn new(rates: [u32; 2], now: Instant) -> Self {
        let buckets = rates.map(|rate| TokenBucket::new(rate, now));
        Self { buckets, untold: [0; 2], seen: None, used_at: now }
    }
}

impl Quota {
    /// Limits of a single instance.
    #[must_use]
    pub fn local(limits: &config::Limits) -> Self {
        Self::new(limits, None)
    }

    /// Limits shared through Redis, under keys that start with `prefix`.
    #[must_use]
    pub fn redis(limits: &config::Limits, prefix: &str, link: RedisLink) -> Self {
        Self::new(limits, Some(Exchange::new(prefix, link)))
    }

    fn new(limits: &config::Limits, exchange: Option<Exchange>) -> Self {
        let rates = [limits.user_ops_per_second, limits.user_broadcasts_per_second];
        Self { shared: Arc::new(Shared { rates, users: DashMap::new(), exchange }) }
    }

    /// Takes `n` for `user`, or tells in how many milliseconds to try again. Nothing is taken then.
    ///
    /// # Errors
    /// The milliseconds to wait.
    pub fn take(&self, user: &UserId, kind: Kind, n: u32) -> Result<(), u64> {
        self.take_at(user, kind, n, Instant::now())
    }

    fn take_at(&self, user: &UserId, kind: Kind, n: u32, now: Instant) -> Result<(), u64> {
        let Shared { rates, users, .. } = &*self.shared;
        if !users.contains_key(user) {
            if users.len() >= USERS {
                return Ok(());
            }
            users.entry(user.clone()).or_insert_with(|| Usage::new(*rates, now));
        }
        let Some(mut usage) = users.get_mut(user) else { return Ok(()) };
        let kind = kind as usize;
        usage.used_at = now;
        let wait = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        usage.buckets[kind].take(n, now).map_err(wait)?;
        usage.untold[kind] += u64::from(n);
        Ok(())
    }

    /// The worker: exchanges consumption and forgets idle users, until cancelled.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            if let Some(exchange) = &self.shared.exchange {
                exchange.run(&self.shared.users).await;
            }
            self.evict(Instant::now());
        }
    }

    fn evict(&self, now: Instant) {
        self.shared.users.retain(|_, usage| now.saturating_duration_since(usage.used_at) < IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Quota {
        Quota::local(&config::Limits {
            user_ops_per_second: 10,
            user_broadcasts_per_second: 1,
            ..config::Limits::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn each_user_and_kind_has_its_own_limit() {
        let (quota, now) = (quota(), Instant::now());
        let (ana, ben) = (UserId::new("ana").unwrap(), UserId::new("ben").unwrap());
        assert_eq!(quota.take(&ana, Kind::Ops, 20), Ok(()));
        assert_eq!(quota.take(&ana, Kind::Ops, 1), Err(100));
        assert_eq!(quota.take(&ana, Kind::Broadcasts, 2), Ok(()));
        assert_eq!(quota.take(&ben, Kind::Ops, 20), Ok(()));
        assert_eq!(quota.take_at(&ana, Kind::Ops, 1, now + Duration::from_millis(100)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_users_are_forgotten() {
        let (quota, now) = (quota(), Instant::now());
        for n in 0..100 {
            let user = UserId::new(&format!("u{n}")).unwrap();
            quota.take(&user, Kind::Ops, 1).unwrap();
        }
        quota.evict(now + IDLE - Duration::from_millis(1));
        assert_eq!(quota.shared.users.len(), 100);
        quota.evict(now + IDLE);
        assert_eq!(quota.shared.users.len(), 0);
    }
}
