//! The one way into the log: lock the projects' heads, read, let a pure plan decide, write, commit.
//!
//! The number of statements is the same for one operation and for a thousand, because a lock is held
//! while they run. A commit that only repeats known operations writes nothing.
//!
//! Nearly every operation is new, so it is taken for new: what is decided of it enters first, and the key of
//! the verdicts refuses a second one for the same operation. Then nothing of the commit stands, and it is begun
//! anew with the verdicts that are there ([`repeats`]).

use std::collections::HashMap;

use sqlx::{Postgres, Sqlite, Transaction};

use super::{
    BEGIN_SQLITE, Batch, Committed, Effects, Inner, NewNotification, PendingOp, Snapshot, Store,
    StoreError,
};

/// Runs `$body`, the same for both engines, on the transaction's connection.
macro_rules! on_tx {
    ($tx:expr, |$db:ident| $body:expr) => {
        match $tx {
            Tx::Sqlite(tx) => {
                let $db = &mut **tx;
                $body
            }
            Tx::Postgres(tx) => {
                let $db = &mut **tx;
                $body
            }
        }
    };
}

mod conflicts;
mod notify;
mod read;
mod repeats;
mod verdicts;
mod write;

/// Decides what a project's operations do: a pure function of what is stored, what is asked and the
/// time in milliseconds since the Unix epoch, but for the ids it makes. It may run again for the same operations.
pub type Plan<'p> = dyn Fn(&Snapshot, &[PendingOp], i64) -> Effects + Sync + 'p;

pub(super) use repeats::Repeats;
pub(super) use write::column;

pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Store {
    /// Decides and commits the batches in one transaction: all of them, or none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if a lock was not to be had or the outcome is unknown: call again with
    /// the same operations, stored verdicts make that safe. [`StoreError::Data`] if the database
    /// refused a value: divide the batch to find the operation at fault.
    pub async fn commit(
        &self,
        batches: &[Batch<'_>],
        now_ms: i64,
        plan: &Plan<'_>,
    ) -> Result<Vec<Committed>, StoreError> {
        // What is tried again is a repeat, and what replaces another is decided by that one's verdict.
        let second = |op: &PendingOp| op.retry || op.op.replaces.is_some();
        let known = batches.iter().any(|batch| batch.ops.iter().any(second));
        let mut look = known || self.repeats.expected();
        loop {
            match self.commit_once(batches, now_ms, plan, look).await {
                Ok(Some(committed)) => return Ok(committed),
                // The log is locked: what was looked for and not found is not there.
                Ok(None) if look => return Err(StoreError::Plan("two verdicts for an operation")),
                Ok(None) => look = true,
                Err(error) => {
                    // It may have been committed all the same.
                    self.repeats.met();
                    return Err(error);
                }
            }
            self.repeats.met();
        }
    }

    /// Nothing if an operation has a verdict that was not looked for.
    async fn commit_once(
        &self,
        batches: &[Batch<'_>],
        now_ms: i64,
        plan: &Plan<'_>,
        look: bool,
    ) -> Result<Option<Vec<Committed>>, StoreError> {
        let mut tx = match &self.inner {
            Inner::Sqlite { writer, .. } => Tx::Sqlite(writer.begin_with(BEGIN_SQLITE).await?),
            Inner::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        };
        let snapshots = read::snapshots(&mut tx, batches, look).await?;
        let mut decisions = decide(batches, snapshots, now_ms, plan)?;
        notify::address(&mut tx, &mut decisions).await?;
        let rows = write::Rows::of(batches, &decisions);
        if !verdicts::claim(&mut tx, &rows.verdicts, now_ms).await? {
            match tx {
                Tx::Sqlite(tx) => tx.rollback().await?,
                Tx::Postgres(tx) => tx.rollback().await?,
            }
            return Ok(None);
        }
        write::rows(&mut tx, rows, now_ms).await?;
        match tx {
            Tx::Sqlite(tx) => tx.commit().await?,
            Tx::Postgres(tx) => tx.commit().await?,
        }
        if decisions.iter().any(|decision| !decision.notifications.is_empty()) {
            self.armed.notify_one();
        }
        Ok(Some(decisions.into_iter().map(Decision::into_committed).collect()))
    }
}

/// What was decided for one batch.
struct Decision {
    snapshot: Snapshot,
    effects: Effects,
    /// The effects' notifications, one for each recipient.
    notifications: Vec<NewNotification>,
}

impl Decision {
    fn into_committed(self) -> Committed {
        let Self { snapshot, effects, notifications } = self;
        Committed {
            head: effects.entries.last().map_or(snapshot.head, |entry| entry.seq),
            project: snapshot.project,
            epoch: snapshot.epoch,
            answers: effects.answers,
            entries: effects.entries,
            notifications,
            conflicts: effects.conflicts,
        }
    }
}

fn decide(
    batches: &[Batch<'_>],
    mut snapshots: HashMap<String, Snapshot>,
    now_ms: i64,
    plan: &Plan<'_>,
) -> Result<Vec<Decision>, StoreError> {
    let decide_one = |batch: &Batch<'_>| {
        let snapshot = snapshots
            .remove(batch.project.as_str())
            .ok_or(StoreError::Plan("a project is in two batches"))?;
        let effects = plan(&snapshot, batch.ops, now_ms);
        if effects.answers.len() != batch.ops.len() {
            return Err(StoreError::Plan("not one answer per operation"));
        }
        let mut seq = snapshot.head;
        for entry in &effects.entries {
            seq = seq.next();
            if entry.seq != seq {
                return Err(StoreError::Plan("the log would have a gap"));
            }
        }
        Ok(Decision { snapshot, effects, notifications: Vec::new() })
    };
    batches.iter().map(decide_one).collect()
}
