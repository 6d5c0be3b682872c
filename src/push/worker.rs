//! Takes the intents that come due. Without a provider configured, a push is written to the log: the
//! `log` provider, for development.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config;
use crate::hub::Hub;
use crate::id::InstanceId;
use crate::store::{DueIntent, Store, StoreError};
use crate::telemetry::{Metrics, PushState};

/// Intents claimed at once.
const BATCH: u32 = 100;

/// What the worker needs.
#[derive(Debug)]
pub struct Worker {
    /// Where the intents are.
    store: Store,
    /// Who claims them.
    instance: InstanceId,
    /// How often to look, and for how long a claim holds.
    config: config::Push,
    /// Where outcomes are counted.
    metrics: Arc<Metrics>,
}

impl Worker {
    /// The worker of a hub.
    #[must_use]
    pub fn new(hub: &Hub) -> Self {
        Self {
            store: hub.store.clone(),
            instance: hub.instance,
            config: hub.config.push.clone(),
            metrics: hub.metrics.clone(),
        }
    }

    /// Runs until told to stop; what it claimed by then it finishes.
    pub async fn run(self, stop: CancellationToken) {
        let mut poll = interval(self.config.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(poll.tick()).await.is_some() {
            loop {
                match self.send_due().await {
                    Ok(count) if count == BATCH as usize => {}
                    Ok(_) => break,
                    Err(error) => {
                        self.metrics.store_errors.inc();
                        tracing::warn!(%error, "cannot look for due pushes");
                        break;
                    }
                }
            }
        }
    }

    async fn send_due(&self) -> Result<usize, StoreError> {
        let lease = i64::try_from(self.config.lease.as_millis()).unwrap_or(i64::MAX);
        let owner = self.instance.to_string();
        let due = self.store.claim_intents(clock::now_ms(), BATCH, lease, &owner).await?;
        for intent in &due {
            log(intent);
            if self.store.finish_intent(intent.id, intent.fence, "done", clock::now_ms()).await? {
                self.metrics.push_intents.of(PushState::Done).inc();
            }
        }
        Ok(due.len())
    }
}

/// The `log` provider: says what would be sent.
fn log(intent: &DueIntent) {
    tracing::info!(
        nid = %intent.nid,
        project = %intent.project,
        user = %intent.user,
        lane = intent.lane.as_str(),
        title = %intent.title,
        "push (log provider): not acknowledged in time"
    );
}
