//! The stream: at least once from Redis, exactly once in the log.
//!
//! One instance reads at a time, under a lease, so that the order of the stream is the order of the log;
//! the others stand by. Who becomes the reader first finishes what was delivered and not acknowledged,
//! then goes on with what is new. An entry is acknowledged after its commit. While the store does not
//! answer, the reader waits: nothing is skipped and nothing is lost. What can never be applied becomes a
//! dead letter with the reason.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::group::{BLOCK, Entry, Group, Orphan, Why};
use super::{Authorized, Failed, Ingest, event};
use crate::bus::{BusError, RedisLink};
use crate::config::Config;
use crate::id::InstanceId;
use crate::protocol::error::ErrorCode;
use crate::telemetry::{IngestOutcome, IngestWay, Metrics};

/// Between attempts: the first pause, doubled up to the other.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often one who stands by looks whether the reader is gone, at most.
const STAND_BY: Duration = Duration::from_millis(500);
/// How often the group is looked after, at most.
const LOOK: Duration = Duration::from_secs(5);

/// This instance's part in reading the stream.
pub struct Reader {
    group: Group,
    ingest: Ingest,
    metrics: Arc<Metrics>,
    batch: usize,
    claim_after: Duration,
    max_deliveries: u64,
    op_bytes: usize,
    keep: usize,
    /// What was acknowledged and is still in the stream: the first id of each batch, and its length.
    kept: VecDeque<(String, usize)>,
}

/// An entry on its way.
struct Pending {
    entry: Entry,
    event: Authorized,
    /// How often the hub failed at it.
    faults: u64,
}

impl Reader {
    /// A reader of the configured stream.
    ///
    /// # Errors
    /// The bus is no Redis.
    pub fn new(
        config: &Config,
        instance: InstanceId,
        ingest: Ingest,
        metrics: Arc<Metrics>,
    ) -> Result<Self, BusError> {
        let link = RedisLink::blocking(&config.bus, BLOCK)?;
        Ok(Self {
            group: Group::new(config, instance, link),
            ingest,
            metrics,
            // More than a project's queue takes could never be submitted together.
            batch: config.ingest.batch.min(config.store.queue_ops).max(1),
            claim_after: config.ingest.claim_after,
            max_deliveries: config.ingest.max_deliveries,
            op_bytes: config.limits.op_bytes,
            keep: usize::try_from(config.ingest.keep).unwrap_or(usize::MAX),
            kept: VecDeque::new(),
        })
    }

    /// Reads until told to stop; what is at hand then is finished, or stays unacknowledged for others.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE.0;
        while !stop.is_cancelled() {
            let began = Instant::now();
            match self.consume(&stop).await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the ingest stream cannot be read"),
            }
            if began.elapsed() > PAUSE.1 {
                pause = PAUSE.0;
            }
            let jittered = pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            stop.run_until_cancelled(sleep(jittered)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        if let Err(error) = self.group.leave().await {
            tracing::debug!(%error, "left the ingest stream's group without saying so");
        }
    }

    /// Reads until told to stop, or Redis fails.
    async fn consume(&mut self, stop: &CancellationToken) -> RedisResult<()> {
        self.group.ensure().await?;
        let mut reading = false;
        let mut look_at = Instant::now();
        while !stop.is_cancelled() {
            if !self.group.hold().await? {
                if std::mem::take(&mut reading) {
                    tracing::warn!("another instance reads the ingest stream now");
                }
            } else if !reading {
                // Nobody else reads now, so whatever is not acknowledged is nobody's.
                self.recover(Duration::ZERO, stop).await?;
                reading = true;
            }
            if Instant::now() >= look_at {
                self.look_after(reading, stop).await?;
                look_at = Instant::now() + LOOK.min(self.claim_after / 2);
            }
            if reading {
                let entries = self.group.read(self.batch).await?;
                self.take(entries, stop).await?;
            } else {
                let stand_by = STAND_BY.min(self.claim_after / 2);
                stop.run_until_cancelled(sleep(stand_by)).await;
            }
        }
        Ok(())
    }

    async fn look_after(&mut self, reading: bool, stop: &CancellationToken) -> RedisResult<()> {
        let lag = self.group.lag().await?;
        self.metrics.ingest_lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
        if reading {
            self.recover(self.claim_after, stop).await?;
            self.group.dismiss_idle(self.claim_after).await?;
        }
        Ok(())
    }

    /// Finishes what was delivered so long ago and never acknowledged, in the order of the stream.
    async fn recover(&mut self, idle: Duration, stop: &CancellationToken) -> RedisResult<()> {
        while !stop.is_cancelled() {
            let orphans = self.group.orphans(idle, self.batch).await?;
            if orphans.is_empty() {
                break;
            }
            tracing::info!(entries = orphans.len(), "taking over entries of the ingest stream");
            let (worn, fresh): (Vec<_>, Vec<_>) =
                orphans.into_iter().partition(|orphan| orphan.deliveries >= self.max_deliveries);
            self.give_up(&worn).await?;
            if fresh.is_empty() {
                continue;
            }
            let entries = self.group.claim(&fresh).await?;
            let gone: Vec<&str> = (fresh.iter().map(|orphan| &*orphan.id))
                .filter(|id| entries.iter().all(|entry| entry.id != *id))
                .collect();
            self.group.ack(&gone).await?;
            self.settle(entries, stop).await?;
        }
        Ok(())
    }

    /// Buries entries that were delivered too often: each time, whoever had them did not come back.
    async fn give_up(&self, worn: &[Orphan]) -> RedisResult<()> {
        if worn.is_empty() {
            return Ok(());
        }
        let why = Why {
            code: "max_deliveries".into(),
            reason: format!("delivered {} times and never finished", self.max_deliveries),
        };
        for entry in self.group.claim(worn).await? {
            self.bury(&entry, &why).await?;
        }
        let ids: Vec<&str> = worn.iter().map(|orphan| &*orphan.id).collect();
        self.group.ack(&ids).await
    }

    /// Applies new entries, and lets go of the oldest applied ones.
    async fn take(&mut self, entries: Vec<Entry>, stop: &CancellationToken) -> RedisResult<()> {
        let (Some(first), count) = (entries.first().map(|entry| entry.id.clone()), entries.len())
        else {
            return Ok(());
        };
        self.settle(entries, stop).await?;
        self.kept.push_back((first, count));
        let mut kept: usize = self.kept.iter().map(|(_, count)| count).sum();
        let mut trim = false;
        while let Some((_, count)) = self.kept.front()
            && self.kept.len() > 1
            && kept - count >= self.keep
        {
            kept -= count;
            self.kept.pop_front();
            trim = true;
        }
        match self.kept.front() {
            Some((first, _)) if trim => self.group.trim(first.clone()).await,
            _ => Ok(()),
        }
    }

    /// Applies entries, tries again until each is applied or buried, and acknowledges them. Holds the
    /// lease meanwhile. Returns early when told to stop; the rest stays unacknowledged.
    async fn settle(&self, entries: Vec<Entry>, stop: &CancellationToken) -> RedisResult<()> {
        let mut open = self.read(entries).await?;
        let mut pause = PAUSE.0;
        while !open.is_empty() {
            open = self.holding(self.attempt(open)).await?;
            if open.is_empty() || stop.is_cancelled() {
                break;
            }
            tracing::warn!(entries = open.len(), "entries of the ingest stream wait for the store");
            self.holding(stop.run_until_cancelled(sleep(pause))).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        Ok(())
    }

    /// What can be applied of the entries; the others are buried and acknowledged.
    async fn read(&self, entries: Vec<Entry>) -> RedisResult<Vec<Pending>> {
        let mut open = Vec::with_capacity(entries.len());
        for entry in entries {
            let raw = entry.field("event").unwrap_or_default();
            let sig = entry.field("sig").and_then(|sig| std::str::from_utf8(sig).ok());
            match self.ingest.read(raw, sig) {
                Ok(event) => {
                    let event = event.or_id(|| event::entry_id(&entry.id, raw));
                    open.push(Pending { entry, event, faults: 0 });
                }
                Err(failed) => self.reject(&entry, &failed).await?,
            }
        }
        Ok(open)
    }

    /// Tries once; returns what has to be tried again, in its order. What the hub itself fails at is then
    /// tried entry by entry, to find the one at fault.
    async fn attempt(&self, open: Vec<Pending>) -> RedisResult<Vec<Pending>> {
        let events: Vec<_> = open.iter().map(|pending| pending.event.clone()).collect();
        let mut fates = Vec::with_capacity(events.len());
        if open.iter().any(|pending| pending.faults > 0) {
            for event in &events {
                fates.extend(
                    self.ingest.apply(IngestWay::Stream, std::slice::from_ref(event)).await,
                );
            }
        } else {
            fates = self.ingest.apply(IngestWay::Stream, &events).await;
        }
        let (mut again, mut done) = (Vec::new(), Vec::new());
        for (mut pending, fate) in open.into_iter().zip(fates) {
            match fate {
                Ok(_) => done.push(pending.entry),
                Err(Failed::NotNow(refusal)) => {
                    self.ingest.failed(IngestWay::Stream, IngestOutcome::Retried);
                    pending.faults += u64::from(refusal.code == ErrorCode::Internal);
                    if pending.faults > self.max_deliveries {
                        self.reject(&pending.entry, &Failed::NotNow(refusal)).await?;
                    } else {
                        again.push(pending);
                    }
                }
                Err(failed) => self.reject(&pending.entry, &failed).await?,
            }
        }
        let ids: Vec<&str> = done.iter().map(|entry| &*entry.id).collect();
        self.group.ack(&ids).await?;
        Ok(again)
    }

    /// Buries an entry and acknowledges it.
    async fn reject(&self, entry: &Entry, failed: &Failed) -> RedisResult<()> {
        let code = match failed {
            Failed::Unfit { code, .. } => code.clone(),
            Failed::NotNow(refusal) => refusal.code.as_str().to_owned(),
        };
        self.bury(entry, &Why { code, reason: failed.to_string() }).await?;
        self.group.ack(&[&entry.id]).await
    }

    async fn bury(&self, entry: &Entry, why: &Why) -> RedisResult<()> {
        tracing::warn!(entry = entry.id, code = why.code, "an event is a dead letter");
        self.ingest.failed(IngestWay::Stream, IngestOutcome::Dead);
        let event = entry.field("event").unwrap_or_default();
        let event = &event[..event.len().min(self.op_bytes)];
        self.group.bury(&entry.id, event, why).await
    }

    /// Keeps the lease while something takes its time. Losing it does no harm: ids make a second
    /// application a repetition.
    async fn holding<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut beat = interval(self.claim_after / 3);
        beat.tick().await;
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = beat.tick() => {
                    if let Err(error) = self.group.hold().await {
                        tracing::debug!(%error, "the lease on the ingest stream was not extended");
                    }
                }
            }
        }
    }
}
