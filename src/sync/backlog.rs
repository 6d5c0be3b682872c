//! What waits for people, over all projects, for the metrics: counted once a minute and up to a bound, so that
//! no commit and no scrape pays for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::telemetry::Metrics;

/// How often it is counted.
const EVERY: Duration = Duration::from_secs(60);

/// Counts until told to stop.
pub async fn run(store: Store, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut turn = interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(turn.tick()).await.is_some() {
        match store.backlog().await {
            Ok(backlog) => {
                metrics.failed_ops.set(backlog.failed);
                metrics.open_conflicts.set(backlog.open_conflicts);
            }
            Err(error) => {
                metrics.store_errors.inc();
                tracing::warn!(%error, "could not count what waits for people");
            }
        }
    }
}
