//! Acknowledgements, gathered: only the latest of each client counts, so a burst of them is one write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::auth::Permit;
use crate::clock;
use crate::id::{ClientId, ProjectId, Seq, UserId};
use crate::store::Store;
use crate::store::push::Canceled;
use crate::telemetry::{Metrics, PushState};

/// How long acknowledgements are gathered. Well below the shortest grace of a push.
const GATHER: Duration = Duration::from_millis(100);
/// Clients with an acknowledgement waiting. Beyond it new ones are not noted: the worst is a push for
/// something already seen, and the client's next acknowledgement makes up for it.
const MOST: usize = 100_000;
/// Writes to the store at once.
const AT_ONCE: usize = 4;

/// Of connections that name no installation, the user's count as one.
type Key = (ProjectId, UserId, Option<ClientId>);

#[derive(Debug, Clone, Copy)]
struct Noted {
    seq: Seq,
    /// Whether the app was in the foreground: then it counts for the user, not for the device alone.
    active: bool,
}

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
            return; // nothing is kept of it, and nobody has seen anything
        }
        self.put((project.clone(), permit.user().clone(), client), Noted { seq, active });
    }

    fn put(&self, key: Key, new: Noted) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(noted) = waiting.get_mut(&key) {
            noted.seq = noted.seq.max(new.seq);
            noted.active |= new.active;
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

    async fn flush(&self, store: &Store, metrics: &Metrics) {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let now = clock::now_ms();
        stream::iter(waiting)
            .for_each_concurrent(AT_ONCE, |(key, noted)| async move {
                let (project, user, client) = &key;
                let Noted { seq, active } = noted;
                let told = match client {
                    Some(client) => store.ack(project, user, client, seq, active, now).await,
                    None => store.ack_unnamed(project, user, seq, now).await,
                };
                match told {
                    Ok(canceled) => {
                        metrics.push_intents.of(PushState::Canceled).inc_by(canceled.total());
                        self.canceled().add(canceled);
                    }
                    Err(error) => {
                        metrics.store_errors.inc();
                        tracing::warn!(%project, %error, "an acknowledgement waits for the store");
                        self.put(key, noted);
                    }
                }
            })
            .await;
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
