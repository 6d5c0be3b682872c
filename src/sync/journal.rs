//! The log of requests (`sync_log`), off the way of the writes: a request leaves its record in a bounded
//! queue when it is answered, and one task writes what has gathered. A full queue, or a store that does
//! not answer, costs records, which are counted, and never a write.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::auth::Permit;
use crate::clock;
use crate::store::{Answer, Outcomes, Store, SyncRecord};
use crate::telemetry::{Dropped, Metrics};

/// Records that may wait.
const QUEUE: usize = 8192;
/// Records in one statement.
const AT_ONCE: usize = 500;
/// How long records are gathered where they are few. The queue has room for what comes meanwhile at 40 000 a second.
const GATHER: Duration = Duration::from_millis(200);

/// Where records go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: Option<mpsc::Sender<SyncRecord>>,
    metrics: Arc<Metrics>,
}

/// What a request did.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Write,
    Retry,
}

/// A request on its way to its answer.
#[derive(Debug)]
pub(super) struct Request {
    kind: Kind,
    record: SyncRecord,
    received: Instant,
    journal: Journal,
}

impl Journal {
    /// A journal, and the task that writes it down.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let writer = Writer { queue, metrics: metrics.clone(), gather: GATHER };
        (Self { queue: Some(sender), metrics }, writer)
    }

    /// A journal that keeps nothing.
    #[must_use]
    pub fn off(metrics: Arc<Metrics>) -> Self {
        Self { queue: None, metrics }
    }

    /// Begins the record of a request that came in now.
    pub(super) fn request(&self, kind: Kind, permit: &Permit, client: &str) -> Option<Request> {
        self.queue.as_ref()?;
        let record = SyncRecord {
            project: permit.project()?.to_string(),
            id: Uuid::now_v7().to_string(),
            kind: match kind {
                Kind::Write => "write".to_owned(),
                Kind::Retry => "retry".to_owned(),
            },
            user: permit.user().to_string(),
            client: client.to_owned(),
            device: permit.device().filter(|device| !device.contains('\0')).map(str::to_owned),
            ops: 0,
            bytes: 0,
            outcomes: Outcomes::default(),
            duration_ms: 0,
            result: String::new(),
            at: clock::now_ms(),
        };
        Some(Request { kind, record, received: Instant::now(), journal: self.clone() })
    }

    fn keep(&self, record: SyncRecord) {
        if let Some(queue) = &self.queue
            && queue.try_send(record).is_err()
        {
            self.metrics.drops.of(Dropped::SyncLog).inc();
        }
    }
}

impl Request {
    /// Notes what was asked for, and how many of the operations go no further: they could not even be read,
    /// or, in a retry, keep their verdicts.
    pub(super) fn holds(&mut self, ops: usize, bytes: usize, filled: usize) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.record.ops = number(ops);
        self.record.bytes = number(bytes);
        let outcomes = &mut self.record.outcomes;
        match self.kind {
            Kind::Write => outcomes.rejected = number(filled),
            Kind::Retry => outcomes.replayed = number(filled),
        }
    }

    /// The request was answered with verdicts.
    pub(super) fn answered(mut self, answers: &[Answer]) {
        for answer in answers {
            match answer {
                Answer::New(given) => self.record.outcomes.count(given.outcome),
                Answer::Replayed(_) => self.record.outcomes.replayed += 1,
            }
        }
        self.end("ok");
    }

    /// The request was answered with an error.
    pub(super) fn refused(self, code: &str) {
        self.end(code);
    }

    fn end(mut self, result: &str) {
        let taken = self.received.elapsed().as_millis();
        self.record.duration_ms = i64::try_from(taken).unwrap_or(i64::MAX);
        result.clone_into(&mut self.record.result);
        self.journal.keep(self.record);
    }
}

/// Writes the records that wait.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<SyncRecord>,
    metrics: Arc<Metrics>,
    gather: Duration,
}

impl Writer {
    /// Writes until the shutdown, then what is left.
    pub async fn run(mut self, store: Store, stop: CancellationToken) {
        let mut records = Vec::new();
        while stop.run_until_cancelled(self.queue.recv_many(&mut records, AT_ONCE)).await.is_some()
        {
            if records.is_empty() {
                return;
            }
            if records.len() < AT_ONCE {
                if stop.run_until_cancelled(sleep(self.gather)).await.is_none() {
                    break;
                }
                self.fill(&mut records);
            }
            self.write(&store, &mut records).await;
        }
        loop {
            self.fill(&mut records);
            if records.is_empty() {
                return;
            }
            self.write(&store, &mut records).await;
        }
    }

    fn fill(&mut self, records: &mut Vec<SyncRecord>) {
        while records.len() < AT_ONCE
            && let Ok(record) = self.queue.try_recv()
        {
            records.push(record);
        }
    }

    async fn write(&self, store: &Store, records: &mut Vec<SyncRecord>) {
        if let Err(error) = store.add_to_sync_log(records).await {
            self.metrics.store_errors.inc();
            self.metrics.drops.of(Dropped::SyncLog).inc_by(records.len() as u64);
            tracing::warn!(%error, records = records.len(), "lost records of the log of requests");
        }
        records.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SyncLogQuery;

    fn record() -> SyncRecord {
        SyncRecord {
            project: "p".into(),
            id: Uuid::now_v7().to_string(),
            kind: "write".into(),
            user: "ana".into(),
            client: "phone".into(),
            device: None,
            ops: 0,
            bytes: 0,
            outcomes: Outcomes::default(),
            duration_ms: 0,
            result: "ok".into(),
            at: 0,
        }
    }

    #[test]
    fn a_full_queue_costs_records_which_are_counted() {
        let metrics = Metrics::new();
        let (journal, writer) = Journal::new(metrics.clone());
        (0..QUEUE + 3).for_each(|_| journal.keep(record()));
        assert_eq!((metrics.drops.of(Dropped::SyncLog).get(), writer.queue.len()), (3, QUEUE));
    }

    #[tokio::test]
    async fn what_fills_a_statement_is_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("hub.db").display());
        let store = Store::open(&crate::config::Store { url, ..Default::default() }).await.unwrap();
        store.migrate().await.unwrap();
        let (journal, mut writer) = Journal::new(Metrics::new());
        writer.gather = Duration::from_secs(3600);
        (0..3 * AT_ONCE).for_each(|_| journal.keep(record()));
        let stop = CancellationToken::new();
        let writing = tokio::spawn(writer.run(store.clone(), stop.clone()));
        let project = "p".parse().unwrap();
        let all = SyncLogQuery { limit: u32::MAX, ..SyncLogQuery::default() };
        let written = async {
            while store.sync_log(&project, all).await.unwrap().len() < 3 * AT_ONCE {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
        stop.cancel();
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_costs_records_which_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("hub.db").display());
        let config = crate::config::Store { url, ..Default::default() };
        let store = Store::open(&config).await.unwrap();
        let metrics = Metrics::new();
        let (journal, writer) = Journal::new(metrics.clone());
        (0..AT_ONCE + 7).for_each(|_| journal.keep(record()));
        let stop = CancellationToken::new();
        stop.cancel();
        // Its tables are not there.
        writer.run(store, stop).await;
        assert_eq!(metrics.drops.of(Dropped::SyncLog).get(), AT_ONCE as u64 + 7);
    }
}
