//! Counts what waits, for operators: apart from the work, and seldom, because with receipts that are not due yet
//! there may be hundreds of thousands.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::store::push::QueueLine;
use crate::telemetry::{Label, Metrics, PushWait};

/// How often, in multiples of `push.poll`.
const POLLS: u32 = 10;

/// Counts the queue of all instances.
pub(super) struct Census {
    pub(super) store: Store,
    pub(super) poll: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Census {
    /// Runs until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut ticks = interval((self.poll * POLLS).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.store.push_queue().await {
                Ok(queue) => self.show(&queue),
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "cannot count the push queue");
                }
            }
        }
    }

    /// Says what waits, and since when.
    fn show(&self, queue: &[QueueLine]) {
        for wait in PushWait::all() {
            let lines = queue.iter().filter(|line| line.state == wait.as_str());
            self.metrics.push_queue.of(wait).set(lines.map(|line| line.count).sum());
        }
        let to_send = queue.iter().filter(|line| line.stage == "delivery");
        let oldest = to_send.map(|line| line.oldest).max().unwrap_or(0);
        self.metrics.push_queue_oldest_seconds.set(oldest / 1000);
    }
}
