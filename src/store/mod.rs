//! The store: every project's log, entities, verdicts and notifications, in SQLite or PostgreSQL.
//!
//! Called by the sync engine ([`Store::commit`], [`Store::page`]), by the push workers
//! ([`push`]) and by `auth` ([`Store::revocations`], [`Store::memberships_after`]). One file per topic, both engines
//! side by side in it; `tests/it/store.rs` is the one suite both have to pass.
//!
//! Invariants: a project's sequence is dense and in commit order, because its `sync_head` row is locked
//! first in every transaction that writes its log. A change, its verdicts, its notifications and their
//! pushes are one transaction. A commit whose outcome is unknown is reported as
//! [`StoreError::Unavailable`] and is safe to run again. JSON is kept as text, byte for byte.

use std::sync::Arc;

use sqlx::{Pool, Postgres, Sqlite};
use tokio::sync::Notify;

/// Runs `$body` on the connections for reading; `$body` is compiled once for each engine.
macro_rules! on_reader {
    ($store:expr, |$db:ident| $body:expr) => {
        match &$store.inner {
            $crate::store::Inner::Sqlite { readers: $db, .. } => $body,
            $crate::store::Inner::Postgres($db) => $body,
        }
    };
}

/// Executes `$query`, one statement that writes; how many rows it touched.
macro_rules! execute {
    ($store:expr, $query:expr) => {
        match &$store.inner {
            $crate::store::Inner::Sqlite { writer, .. } => {
                $query.execute(writer).await?.rows_affected()
            }
            $crate::store::Inner::Postgres(pool) => $query.execute(pool).await?.rows_affected(),
        }
    };
}

/// Runs `$body` in a transaction that may write, and commits; an early `?` rolls back.
macro_rules! in_transaction {
    ($store:expr, |$tx:ident| $body:expr) => {
        match &$store.inner {
            $crate::store::Inner::Sqlite { writer, .. } => {
                let mut $tx = writer.begin_with($crate::store::BEGIN_SQLITE).await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
            $crate::store::Inner::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
        }
    };
}

mod commit;
mod conflicts;
mod delta;
mod dialect;
mod entities;
mod error;
mod heads;
mod lane;
mod lease;
mod log;
mod membership;
mod memberships;
mod migrate;
mod model;
mod notifications;
mod open;
mod policies;
pub mod push;
mod queue;
pub mod retention;
mod revocations;
mod scope;
mod stamps;
mod sync_log;
mod sync_status;
mod value;

pub use commit::Plan;
pub use conflicts::{ConflictPage, ConflictQuery};
pub use delta::{DeltaPage, DeltaRow};
pub use error::StoreError;
pub use lane::{CrowdedLane, InvalidPlace, LaneOp, LanePlace, LaneQuery, Retried};
pub use lease::Lease;
pub use membership::{MemberAnswer, MemberEvent, Membership, MembershipHead, Standing};
pub use model::{
    Access, Actor, Answer, Audience, Batch, Committed, Draft, Effects, EntityRow, Given, Head,
    LocalName, LogEntry, LogPage, NewNotification, Parked, PendingOp, Recorded, Refused,
    RevocationRow, Schedule, Snapshot, SourceVersion,
};
pub use queue::Submitted;
pub use stamps::{Stamp, Stamps};
pub use sync_log::{Outcomes, SyncLogQuery, SyncRecord};
pub use sync_status::{Backlog, COUNTED, DeviceStatus, SyncStatus};

/// A handle on the store; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Inner,
    /// Rung when this process armed a push.
    armed: Arc<Notify>,
    repeats: Arc<commit::Repeats>,
}

/// The two engines.
#[derive(Debug, Clone)]
enum Inner {
    /// `writer` holds the one connection that writes: SQLite has one writer anyway, and a queue in
    /// front of it is fairer than its busy handler.
    Sqlite {
        writer: Pool<Sqlite>,
        readers: Pool<Sqlite>,
    },
    Postgres(Pool<Postgres>),
}

/// Takes the write lock at once: a transaction that reads first and writes later is refused
/// (`BUSY_SNAPSHOT`) if another process wrote in between.
const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE";
