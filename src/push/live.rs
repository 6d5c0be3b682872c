//! Who has a connection here, gathered and told to the store, where every instance looks when it arms a
//! push. A wrong answer costs a push some seconds or one too many, never a loss.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::fanout::Relay;
use crate::id::{InstanceId, UserId};
use crate::store::Store;
use crate::telemetry::Metrics;

/// How long comings and goings are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How often an instance says that it lives, and for how long that holds.
const BEAT: Duration = Duration::from_secs(3);
const LEASE_MS: i64 = 12_000;
/// Users told in one transaction.
const CHUNK: usize = 2000;

/// Comings and goings on their way to the store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// The latest of each user; one per user with a connection at most.
    waiting: Arc<Mutex<HashMap<UserId, bool>>>,
}

impl Live {
    /// The first connection of a user here came, or the last one went.
    pub fn note(&self, user: &UserId, here: bool) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(user.clone(), here);
    }

    /// Tells the store until the shutdown.
    pub async fn run(
        self,
        instance: InstanceId,
        store: Store,
        relay: Arc<Relay>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        let mut gather = interval(GATHER);
        gather.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat_at = Instant::now();
        while stop.run_until_cancelled(gather.tick()).await.is_some() {
            if Instant::now() >= beat_at {
                match store.beat(instance, LEASE_MS).await {
                    Ok(forgotten) => {
                        beat_at = Instant::now() + BEAT;
                        if forgotten {
                            relay.fanout.connected_users().iter().for_each(|u| self.note(u, true));
                        }
                    }
                    Err(error) => {
                        metrics.store_errors.inc();
                        tracing::debug!(%error, "the store does not hear that this instance lives");
                    }
                }
            }
            self.flush(instance, &store, &metrics).await;
        }
    }

    async fn flush(&self, instance: InstanceId, store: &Store, metrics: &Metrics) {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let waiting: Vec<(UserId, bool)> = waiting.into_iter().collect();
        for chunk in waiting.chunks(CHUNK) {
            let (come, gone): (Vec<_>, Vec<_>) = chunk.iter().partition(|(_, here)| *here);
            let names = |users: Vec<&(UserId, bool)>| {
                users.into_iter().map(|(user, _)| user.clone()).collect::<Vec<_>>()
            };
            if let Err(error) = store.live(instance, &names(come), &names(gone)).await {
                metrics.store_errors.inc();
                tracing::debug!(%error, "the store does not hear who is here");
                let mut again = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                for (user, here) in chunk {
                    again.entry(user.clone()).or_insert(*here);
                }
            }
        }
    }
}
