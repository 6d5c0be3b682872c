//! Acknowledgements, gathered: only the latest of each client counts, so a burst of them is one write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::auth::Permit;
use crate::clock;
use crate::id::{ClientId, ProjectId, Seq, UserId};
use crate::store::Store;
use crate::store::push::{Ack, Canceled};
use crate::telemetry::{Metrics, PushState};

/// How long acknowledgements are gathered. Well below the shortest grace of a push.
const GATHER: Duration = Duration::from_millis(100);
/// Clients with an acknowledgement waiting. Beyond it new ones are not noted: the worst is a push for
/// something already seen, and the client's next acknowledgement makes up for it.
const MOST: usize = 100_000;
/// Clients in one write: few enough that the first of many are not kept waiting.
const CHUNK: usize = 500;

/// Of connections that name no installation, the user's count as one.
type Key = (ProjectId, UserId, Option<ClientId>);

/// How far a client has come: what was seen, and what was only stored.
type Noted = (Option<Seq>, Option<Seq>);

/// Acknowledgements on their way to the store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Acks {
    waiting: Arc<Mutex<HashMap<Key, Noted>>>,
    /// What they canceled, to be counted.
    canceled: Arc<Mutex<Canceled>>,
}

impl Acks {
    /// Notes that a client has stored everything of a project up to `seq`.
    pub fn note(&self, permit: &Permit, client: Option<ClientId>, seq: Seq, active: bool) {
        let Some(project) = permit.project() else { return };
        if client.is_none() && !active {
            return; // no device is spared by it, and nobody has seen anything
        }
        let noted = if active { (Some(seq), None) } else { (None, Some(seq)) };
        self.put((project.clone(), permit.user().clone(), client), noted);
    }

    fn put(&self, key: Key, new: Noted) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, stored)) = waiting.get_mut(&key) {
            (*seen, *stored) = ((*seen).max(new.0), (*stored).max(new.1));
        } else if waiting.len() < MOST {
            waiting.insert(key, new);
        }
    }

    /// Tells the store until the shutdown, then once more.
    pub async fn run(self, store: Store, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut gather = interval(GATHER);
        gather.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(gather.tick()).await.is_some() {
            self.flush(&store, &metrics).await;
        }
        self.flush(&store, &metrics).await;
    }

    /// What waits, those first that a person has seen: they disarm the most.
    fn take(&self) -> Vec<Ack> {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let ack =
            |((project, user, client), (seen, stored))| Ack { project, user, client, seen, stored };
        let mut acks: Vec<_> = waiting.into_iter().map(ack).collect();
        acks.sort_unstable_by_key(|ack| ack.seen.is_none());
        acks
    }

    async fn flush(&self, store: &Store, metrics: &Metrics) {
        let now = clock::now_ms();
        for acks in self.take().chunks(CHUNK) {
            match store.acknowledge(acks, now).await {
                Ok(canceled) => {
                    metrics.push_intents.of(PushState::Canceled).inc_by(canceled.total());
                    self.canceled().add(canceled);
                }
                Err(error) => {
                    metrics.store_errors.inc();
                    tracing::warn!(%error, "acknowledgements wait for the store");
                    for ack in acks.iter().cloned() {
                        let Ack { project, user, client, seen, stored } = ack;
                        self.put((project, user, client), (seen, stored));
                    }
                }
            }
        }
        let canceled = std::mem::take(&mut *self.canceled());
        if canceled.total() > 0
            && let Err(error) = store.count_canceled(&canceled).await
        {
            metrics.store_errors.inc();
            tracing::warn!(%error, "what acknowledgements canceled is counted later");
            self.canceled().add(canceled);
        }
    }

    fn canceled(&self) -> MutexGuard<'_, Canceled> {
        self.canceled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_and_what_is_stored_rise_apart_and_what_was_seen_goes_first() {
        let acks = Acks::default();
        let key = |user: &str| ("p".parse().unwrap(), UserId::new(user).unwrap(), None);
        for n in 0..20 {
            acks.put(key(&format!("u{n}")), (None, Some(Seq(7))));
        }
        acks.put(key("ana"), (Some(Seq(5)), None));
        acks.put(key("ana"), (None, Some(Seq(10))));
        // What an earlier write left undone adds nothing.
        acks.put(key("ana"), (Some(Seq(4)), Some(Seq(9))));
        let told = acks.take();
        assert_eq!((told[0].user.as_str(), told.len()), ("ana", 21));
        assert_eq!((told[0].seen, told[0].stored), (Some(Seq(5)), Some(Seq(10))));
        assert!(told[1..].iter().all(|ack| ack.seen.is_none()) && acks.take().is_empty());
    }
}
