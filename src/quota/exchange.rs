//! The Redis side of the limits: counters that only grow, one per user and kind.
//!
//! A counter needs no window and no clock: an instance that knows what it read last time and what it added
//! itself knows what the others added in between. Counters of idle users expire.

use dashmap::DashMap;
use redis::{Pipeline, RedisResult};
use tokio::time::{Duration, Instant};

use super::Usage;
use crate::bus::{RedisLink, key};
use crate::id::UserId;

/// Users exchanged side by side.
const BATCH: usize = 128;
/// Consumption elsewhere that is older than this is forgiven: the bucket has refilled since.
const FRESH: Duration = Duration::from_secs(2);
/// Seconds after which an idle user's counters expire.
const EXPIRY: i64 = 30;

pub(crate) struct Exchange {
    prefix: String,
    link: RedisLink,
}

impl Exchange {
    pub(crate) fn new(prefix: &str, link: RedisLink) -> Self {
        Self { prefix: prefix.to_owned(), link }
    }

    /// Exchanges the consumption of the users active here. What Redis does not take is not told later:
    /// by then it would say little about the present.
    pub(crate) async fn run(&self, users: &DashMap<UserId, Usage>) {
        let now = Instant::now();
        let told: Vec<(UserId, [u64; 2])> = users
            .iter()
            .filter(|entry| now.saturating_duration_since(entry.used_at) < FRESH)
            .map(|entry| (entry.key().clone(), entry.untold))
            .collect();
        for some in told.chunks(BATCH) {
            let calls = some.iter().map(|(user, untold)| self.add(user, *untold));
            let answers = futures_util::future::join_all(calls).await;
            for ((user, untold), answer) in some.iter().zip(answers) {
                if let Err(error) = &answer {
                    // The bus reports the loss of Redis; the local limit goes on.
                    tracing::debug!(%error, "a rate limit is per instance for now");
                }
                if let Some(mut usage) = users.get_mut(user) {
                    usage.told(*untold, answer.ok(), Instant::now());
                }
            }
        }
    }

    /// Adds to a user's counters and reads them.
    async fn add(&self, user: &UserId, [ops, broadcasts]: [u64; 2]) -> RedisResult<[u64; 2]> {
        let key = key(&self.prefix, user.as_str(), "quota");
        let mut pipe = Pipeline::new();
        pipe.hincr(&key, "ops", ops).hincr(&key, "broadcasts", broadcasts);
        pipe.expire(&key, EXPIRY).ignore();
        let (ops, broadcasts) = pipe.query_async(&mut self.link.clone()).await?;
        Ok([ops, broadcasts])
    }
}

impl Usage {
    /// The counters stood at `totals` after `told` was added to them, or could not be read.
    fn told(&mut self, told: [u64; 2], totals: Option<[u64; 2]>, now: Instant) {
        let before = std::mem::replace(&mut self.seen, totals.map(|totals| (now, totals)));
        for kind in 0..2 {
            // A user forgotten and back meanwhile has less untold.
            self.untold[kind] = self.untold[kind].saturating_sub(told[kind]);
            if let (Some(totals), Some((at, seen))) = (totals, before)
                && now.saturating_duration_since(at) < FRESH
            {
                let elsewhere = totals[kind].saturating_sub(seen[kind] + told[kind]);
                self.buckets[kind].drain(u32::try_from(elsewhere).unwrap_or(u32::MAX), now);
            }
        }
    }
}
