//! Keeps the store from growing for ever: purges what is past its time, in small steps, while everyone
//! else works.
//!
//! [`Retention::run`] is a task of every instance, of which one at a time holds the lease; a step that is
//! interrupted is done again by whoever has it next. `syncline retention run` does the same once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config;
use crate::store::retention::{
    Aged, Ages, CONFLICTS, DELIVERIES, DEVICES, INTENTS, MAPPINGS, NOTIFICATIONS, OPEN_CONFLICTS,
    PUSH_MINUTES, PUSH_STATS, PUSH_WINDOWS, Past, REQUESTS, REVOCATIONS, VERDICTS,
};
use crate::store::{Lease, Store, StoreError};
use crate::telemetry::{Metrics, Purged};

/// The lease's name.
const JOB: &str = "retention";
/// How long a holder may be silent. A step takes milliseconds.
const LEASE: Duration = Duration::from_secs(60);
/// Projects looked for at once.
const PROJECTS: u32 = 500;
/// Users' lanes looked for at once.
const LANES: u32 = 500;

/// A cap is about this long.
const HOUR: Duration = Duration::from_secs(3600);
/// No window in which pushes are gathered is longer.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How many rows of each kind went, or would go.
pub type Counts = Vec<(Purged, u64)>;

/// What is purged, how, and what is kept.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Up to a position of each project, what is older.
    Past(Past, Duration),
    /// Row by row, what is older.
    Aged(Aged, Duration),
    /// The oldest operations in the failed lane of who has more in a project.
    Lane(u32),
}

/// Purges by the configured policy.
#[derive(Debug, Clone)]
pub struct Retention {
    store: Store,
    owner: String,
    config: config::Retention,
    /// How long pushes that came to an end are kept.
    pushes: Duration,
    metrics: Arc<Metrics>,
}

impl Retention {
    /// A purger that is known as `owner`.
    #[must_use]
    pub fn new(
        store: Store,
        owner: String,
        config: config::Retention,
        pushes: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, owner, config, pushes, metrics }
    }

    /// What is purged, and what it counts as. A new table is a line here.
    fn rules(&self) -> [(Purged, Rule); 16] {
        let config = &self.config;
        [
            (Purged::Changes, Rule::Past(Past::Log, config.log)),
            (Purged::Tombstones, Rule::Past(Past::Tombstones, config.tombstones)),
            (Purged::Verdicts, Rule::Aged(VERDICTS, config.verdicts)),
            (Purged::FailedOps, Rule::Lane(config.failed_ops)),
            (Purged::Mappings, Rule::Aged(MAPPINGS, config.verdicts)),
            (Purged::Conflicts, Rule::Aged(CONFLICTS, config.conflicts)),
            (Purged::OpenConflicts, Rule::Aged(OPEN_CONFLICTS, config.open_conflicts)),
            (Purged::Requests, Rule::Aged(REQUESTS, config.sync_log)),
            (Purged::Devices, Rule::Aged(DEVICES, config.devices)),
            (Purged::Revocations, Rule::Aged(REVOCATIONS, Duration::ZERO)),
            (Purged::Notifications, Rule::Aged(NOTIFICATIONS, config.notifications)),
            (Purged::PushDeliveries, Rule::Aged(DELIVERIES, self.pushes)),
            (Purged::PushIntents, Rule::Aged(INTENTS, self.pushes)),
            (Purged::PushStats, Rule::Aged(PUSH_STATS, self.pushes)),
            (Purged::PushMinutes, Rule::Aged(PUSH_MINUTES, HOUR)),
            (Purged::PushWindows, Rule::Aged(PUSH_WINDOWS, DAY)),
        ]
    }

    /// Purges every so often until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        if self.config.interval.is_zero() {
            return;
        }
        let mut turn = interval(self.config.interval);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(turn.tick()).await.is_some() {
            match self.purge(&stop).await {
                Ok(Some(counts)) if counts.iter().any(|(_, count)| *count > 0) => {
                    let counts: Vec<_> =
                        counts.iter().map(|(what, n)| (what.as_str(), n)).collect();
                    tracing::info!(?counts, "purged what was past its time");
                }
                Ok(_) => {}
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "the purge waits for the store");
                }
            }
        }
    }

    /// Purges all there is to purge, or until told to stop; returns how much. None if another instance is
    /// at it.
    ///
    /// # Errors
    /// What the store says. What was purged until then stays purged.
    pub async fn purge(&self, stop: &CancellationToken) -> Result<Option<Counts>, StoreError> {
        let Some(lease) = self.store.lease(JOB, &self.owner, LEASE).await? else {
            return Ok(None);
        };
        let mut counts = Counts::new();
        for (what, rule) in self.rules() {
            let purged = match rule {
                Rule::Past(past, keep) => self.past(&lease, what, past, keep, stop).await?,
                Rule::Aged(aged, keep) => self.aged(&lease, what, aged, keep, stop).await?,
                Rule::Lane(most) => self.lanes(&lease, what, most, stop).await?,
            };
            counts.push((what, purged));
        }
        self.store.release(&lease).await?;
        self.metrics.retention_last_run.set(clock::now_s());
        Ok(Some(counts))
    }

    /// How much a purge would take now. Changes nothing and needs no lease.
    ///
    /// # Errors
    /// What the store says.
    pub async fn look(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::new();
        for (what, rule) in self.rules() {
            let mut count = 0;
            match rule {
                Rule::Aged(aged, keep) => count = self.store.count_aged(aged, keep).await?,
                Rule::Lane(most) => count = self.store.count_crowd(most).await?,
                Rule::Past(past, keep) => {
                    let mut after = String::new();
                    loop {
                        let due = self.store.due(past, keep, &after, PROJECTS).await?;
                        let Some(last) = due.last() else { break };
                        after = last.to_string();
                        for project in &due {
                            count += self.store.count_past(past, project, self.ages(keep)).await?;
                        }
                    }
                }
            }
            counts.push((what, count));
        }
        Ok(counts)
    }

    fn ages(&self, keep: Duration) -> Ages {
        Ages { keep, consumers: self.config.consumers, max_lag: self.config.max_lag }
    }

    async fn past(
        &self,
        lease: &Lease,
        what: Purged,
        past: Past,
        keep: Duration,
        stop: &CancellationToken,
    ) -> Result<u64, StoreError> {
        let (store, ages, batch) = (&self.store, self.ages(keep), self.config.batch);
        let (mut total, mut after) = (0, String::new());
        loop {
            let due = store.due(past, keep, &after, PROJECTS).await?;
            let Some(last) = due.last() else { return Ok(total) };
            after = last.to_string();
            for project in &due {
                let step = || store.purge_past(lease, past, project, ages, batch);
                if !self.drain(what, step, &mut total, stop).await? {
                    return Ok(total);
                }
            }
        }
    }

    async fn aged(
        &self,
        lease: &Lease,
        what: Purged,
        aged: Aged,
        keep: Duration,
        stop: &CancellationToken,
    ) -> Result<u64, StoreError> {
        let (mut total, batch) = (0, self.config.batch);
        let step = || self.store.purge_aged(lease, aged, keep, batch);
        self.drain(what, step, &mut total, stop).await?;
        Ok(total)
    }

    async fn lanes(
        &self,
        lease: &Lease,
        what: Purged,
        most: u32,
        stop: &CancellationToken,
    ) -> Result<u64, StoreError> {
        let (store, batch) = (&self.store, self.config.batch);
        let (mut total, mut after) = (0, None);
        loop {
            let crowded = store.crowded_lanes(most, after.as_ref(), LANES).await?;
            let Some(last) = crowded.last() else { return Ok(total) };
            for lane in &crowded {
                let step = || store.trim_lane(lease, lane, batch);
                if !self.drain(what, step, &mut total, stop).await? {
                    return Ok(total);
                }
            }
            after = Some(last.clone());
        }
    }

    /// Takes steps until one finds less than a batch, and adds up what went. False if it has to end here: the
    /// lease is lost, or it was told to stop.
    async fn drain<S>(
        &self,
        what: Purged,
        step: impl Fn() -> S,
        total: &mut u64,
        stop: &CancellationToken,
    ) -> Result<bool, StoreError>
    where
        S: Future<Output = Result<Option<u64>, StoreError>>,
    {
        loop {
            let Some(purged) = step().await? else { return Ok(false) };
            self.metrics.retention_purged.of(what).inc_by(purged);
            *total += purged;
            if stop.is_cancelled() {
                return Ok(false);
            }
            if purged < u64::from(self.config.batch) {
                return Ok(true);
            }
        }
    }
}
