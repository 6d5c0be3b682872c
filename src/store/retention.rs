//! Purging what is past its time, in small transactions, by one instance at a time.
//!
//! Every transaction renews the purger's [`Lease`] first. The log and the tombstones of a project are purged
//! under the project's own lock, never beyond a device that may still come back, and the floor rises in the
//! same transaction: a cursor from before is told to resync. A device that needs what is too old to be kept
//! for anybody is not waited for. `sync::retention` decides what and when.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::lease::{Lease, ms, renewed};
use super::{Store, StoreError, value};
use crate::id::{ProjectId, Seq};

/// Tables whose rows expire each on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aged {
    /// The table.
    pub table: &'static str,
    /// Its primary key.
    key: &'static str,
    /// Whether a row may go, by its age: `$1` is the oldest moment to keep, in milliseconds.
    expired: &'static str,
}

/// Verdicts of clients' operations and backends' events: what makes sending again safe.
pub const VERDICTS: Aged = Aged { table: "sync_queue", key: "project, op_id", expired: "at < $1" };
/// The ids the server gave to what clients named themselves: needed as long as verdicts are.
pub const MAPPINGS: Aged = Aged {
    table: "id_mappings",
    key: "project, user_id, client, type, local_id",
    expired: "at < $1",
};
/// Conflicts that nobody has to decide any more.
pub const CONFLICTS: Aged = Aged {
    table: "conflict_log",
    key: "project, id",
    expired: "state <> 'open' AND created_at < $1 AND COALESCE(resolved_at, created_at) < $1",
};
/// Conflicts that nobody has decided: whose user is gone, as a rule.
pub const OPEN_CONFLICTS: Aged = Aged {
    table: "conflict_log",
    key: "project, id",
    expired: "state = 'open' AND created_at < $1",
};
/// Records of the log of requests.
pub const REQUESTS: Aged = Aged { table: "sync_log", key: "project, id", expired: "at < $1" };
/// Revocations, until the last token they concern has expired.
pub const REVOCATIONS: Aged =
    Aged { table: "revocations", key: "body", expired: "expires_at < $1 / 1000" };
/// How far devices are that were not seen any more.
pub const DEVICES: Aged =
    Aged { table: "device_cursors", key: "user_id, client, project", expired: "last_seen < $1" };

/// What users were notified of, read or not; not what is still to be decided on.
pub const NOTIFICATIONS: Aged = Aged {
    table: "notifications",
    key: "nid",
    expired: "created_at < $1 AND NOT EXISTS (SELECT 1 FROM push_intents i
        WHERE i.nid = notifications.nid AND i.state IN ('waiting', 'scheduled'))",
};

/// Pushes of devices that came to an end.
pub const DELIVERIES: Aged =
    Aged { table: "push_deliveries", key: "id", expired: "finished_at < $1" };
/// Armed pushes that were decided on.
pub const INTENTS: Aged = Aged {
    table: "push_intents",
    key: "id",
    expired: "state IN ('done', 'canceled', 'expired', 'suppressed') AND updated_at < $1",
};
/// What became of pushes, by the minute.
pub const PUSH_STATS: Aged = Aged {
    table: "push_stats",
    key: "minute, project, lane, provider, event, reason",
    expired: "minute < $1 / 60000",
};
/// How many pushes people got, by the minute.
pub const PUSH_MINUTES: Aged =
    Aged { table: "push_minutes", key: "user_id, minute", expired: "minute <= $1 / 60000" };
/// When something was last pushed under a collapse key.
pub const PUSH_WINDOWS: Aged =
    Aged { table: "push_windows", key: "user_id, project, collapse", expired: "sent_at < $1" };

/// What of a project goes up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// The change log.
    Log,
    /// The tombstones of deleted entities.
    Tombstones,
}

/// How old is too old.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Rows older than this may go.
    pub keep: Duration,
    /// Devices seen within this time are waited for.
    pub consumers: Duration,
    /// But not those that need something older than this.
    pub max_lag: Duration,
}

/// Projects whose oldest change, or oldest tombstone, is older than `$3`.
const DUE_LOG: &str = "
    SELECT project FROM sync_head h WHERE project > $1 AND (
        SELECT at FROM changes c WHERE c.project = h.project ORDER BY seq LIMIT 1
    ) < $3 ORDER BY project LIMIT $2";
const DUE_TOMBSTONES: &str = "
    SELECT project FROM sync_head h WHERE project > $1 AND (
        SELECT deleted_at FROM entities e WHERE e.project = h.project AND e.deleted_at IS NOT NULL
        ORDER BY version LIMIT 1
    ) < $3 ORDER BY project LIMIT $2";

/// The floor of either kind. With `FOR UPDATE` it is the project's lock, as every commit takes it.
const FLOOR_LOG: &str = "SELECT log_floor FROM sync_head WHERE project = $1";
const FLOOR_TOMBSTONES: &str = "SELECT tombstone_floor FROM sync_head WHERE project = $1";
/// The position before which no device is that may still come back. One before `$3` needs what nobody is
/// given any more: it will be told to resync, and holds back nothing. Nor does what has no name: it is no device.
const REACHED: &str = "
    SELECT MIN(acked) FROM device_cursors
    WHERE project = $1 AND last_seen >= $2 AND acked >= $3 AND client <> ''";

const OLDEST_LOG: &str = "
    SELECT seq, at FROM changes WHERE project = $1 ORDER BY seq LIMIT $2";
const OLDEST_TOMBSTONES: &str = "
    SELECT version, deleted_at FROM entities
    WHERE project = $1 AND deleted_at IS NOT NULL ORDER BY version LIMIT $2";

const RAISE_LOG: &str = "UPDATE sync_head SET log_floor = $2 WHERE project = $1 AND log_floor < $2";
const RAISE_TOMBSTONES: &str =
    "UPDATE sync_head SET tombstone_floor = $2 WHERE project = $1 AND tombstone_floor < $2";
const DELETE_LOG: &str = "DELETE FROM changes WHERE project = $1 AND seq <= $2";
const DELETE_TOMBSTONES: &str =
    "DELETE FROM entities WHERE project = $1 AND deleted_at IS NOT NULL AND version <= $2";

/// The last position of which everything up to it is older than `$2`.
const STALE_LOG: &str = "
    SELECT MAX(seq) FROM changes WHERE project = $1 AND seq < COALESCE(
        (SELECT seq FROM changes WHERE project = $1 AND at >= $2 ORDER BY seq LIMIT 1),
        9223372036854775807)";
const STALE_TOMBSTONES: &str = "
    SELECT MAX(version) FROM entities
    WHERE project = $1 AND deleted_at IS NOT NULL AND version < COALESCE(
        (SELECT version FROM entities WHERE project = $1 AND deleted_at >= $2
         ORDER BY version LIMIT 1), 9223372036854775807)";
/// Counts what a run would purge, by the same rules.
const COUNT_LOG: &str = "
    SELECT COUNT(*) FROM changes WHERE project = $1 AND seq <= $2 AND seq < COALESCE(
        (SELECT seq FROM changes WHERE project = $1 AND at >= $3 ORDER BY seq LIMIT 1), $2 + 1)";
const COUNT_TOMBSTONES: &str = "
    SELECT COUNT(*) FROM entities
    WHERE project = $1 AND deleted_at IS NOT NULL AND version <= $2 AND version < COALESCE(
        (SELECT version FROM entities WHERE project = $1 AND deleted_at >= $3
         ORDER BY version LIMIT 1), $2 + 1)";

impl Past {
    /// The table, as it is counted.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Log => "changes",
            Self::Tombstones => "entities",
        }
    }

    fn due(self) -> &'static str {
        match self {
            Self::Log => DUE_LOG,
            Self::Tombstones => DUE_TOMBSTONES,
        }
    }

    fn floor(self) -> &'static str {
        match self {
            Self::Log => FLOOR_LOG,
            Self::Tombstones => FLOOR_TOMBSTONES,
        }
    }

    fn stale(self) -> &'static str {
        match self {
            Self::Log => STALE_LOG,
            Self::Tombstones => STALE_TOMBSTONES,
        }
    }

    fn oldest(self) -> &'static str {
        match self {
            Self::Log => OLDEST_LOG,
            Self::Tombstones => OLDEST_TOMBSTONES,
        }
    }

    fn purge(self) -> [&'static str; 2] {
        match self {
            Self::Log => [RAISE_LOG, DELETE_LOG],
            Self::Tombstones => [RAISE_TOMBSTONES, DELETE_TOMBSTONES],
        }
    }

    fn count(self) -> &'static str {
        match self {
            Self::Log => COUNT_LOG,
            Self::Tombstones => COUNT_TOMBSTONES,
        }
    }
}

/// The last position up to which everything is older than `cutoff` and not beyond `reached`.
fn upto(oldest: &[(i64, i64)], cutoff: i64, reached: Option<i64>) -> Option<i64> {
    let may_go = |(seq, at): &&(i64, i64)| *at < cutoff && reached.is_none_or(|to| *seq <= to);
    oldest.iter().take_while(may_go).last().map(|(seq, _)| *seq)
}

impl Store {
    /// The next projects after `after` that have something of this kind that is too old.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn due(
        &self,
        past: Past,
        keep: Duration,
        after: &str,
        limit: u32,
    ) -> Result<Vec<ProjectId>, StoreError> {
        let cutoff = self.now_ms().await?.saturating_sub(ms(keep));
        let names: Vec<String> = on_reader!(self, |db| sqlx::query_scalar(past.due())
            .bind(after)
            .bind(i64::from(limit))
            .bind(cutoff)
            .fetch_all(db)
            .await)?;
        names.iter().map(|name| value::name(name)).collect()
    }

    /// Purges up to `batch` of a project's log or tombstones; returns how many went, none if the lease is
    /// lost.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn purge_past(
        &self,
        lease: &Lease,
        past: Past,
        project: &ProjectId,
        ages: Ages,
        batch: u32,
    ) -> Result<Option<u64>, StoreError> {
        let lock = if self.groups_projects() { "" } else { " FOR UPDATE" };
        let lock = format!("{}{lock}", past.floor());
        let purged = in_transaction!(self, |tx| {
            let Some(now) = renewed!(self, tx, lease) else { return Ok(None) };
            let floor: Option<i64> = sqlx::query_scalar(AssertSqlSafe(lock))
                .bind(project.as_str())
                .fetch_optional(&mut *tx)
                .await?;
            let oldest: Vec<(i64, i64)> = sqlx::query_as(past.oldest())
                .bind(project.as_str())
                .bind(i64::from(batch))
                .fetch_all(&mut *tx)
                .await?;
            let stale = upto(&oldest, now.saturating_sub(ms(ages.max_lag)), None);
            let reached: Option<i64> = sqlx::query_scalar(REACHED)
                .bind(project.as_str())
                .bind(now.saturating_sub(ms(ages.consumers)))
                .bind(stale.or(floor).unwrap_or(0))
                .fetch_one(&mut *tx)
                .await?;
            let mut purged = 0;
            if let Some(upto) = upto(&oldest, now.saturating_sub(ms(ages.keep)), reached) {
                for statement in past.purge() {
                    let done = sqlx::query(statement)
                        .bind(project.as_str())
                        .bind(upto)
                        .execute(&mut *tx)
                        .await?;
                    purged = done.rows_affected();
                }
            }
            Some(purged)
        });
        Ok(purged)
    }

    /// Purges up to `batch` rows that are older than `keep`; returns how many went, none if the lease is
    /// lost.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn purge_aged(
        &self,
        lease: &Lease,
        aged: Aged,
        keep: Duration,
        batch: u32,
    ) -> Result<Option<u64>, StoreError> {
        let Aged { table, key, expired } = aged;
        let delete = format!(
            "DELETE FROM {table} WHERE ({key}) IN
             (SELECT {key} FROM {table} WHERE {expired} LIMIT $2)"
        );
        let purged = in_transaction!(self, |tx| {
            let Some(now) = renewed!(self, tx, lease) else { return Ok(None) };
            let done = sqlx::query(AssertSqlSafe(delete))
                .bind(now.saturating_sub(ms(keep)))
                .bind(i64::from(batch))
                .execute(&mut *tx)
                .await?;
            Some(done.rows_affected())
        });
        Ok(purged)
    }

    /// How many rows of a project [`Store::purge_past`] would purge in the end.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_past(
        &self,
        past: Past,
        project: &ProjectId,
        ages: Ages,
    ) -> Result<u64, StoreError> {
        let now = self.now_ms().await?;
        let count: i64 = on_reader!(self, |db| {
            let floor: Option<i64> =
                sqlx::query_scalar(past.floor()).bind(project.as_str()).fetch_optional(db).await?;
            let stale: Option<i64> = sqlx::query_scalar(past.stale())
                .bind(project.as_str())
                .bind(now.saturating_sub(ms(ages.max_lag)))
                .fetch_one(db)
                .await?;
            let reached: Option<i64> = sqlx::query_scalar(REACHED)
                .bind(project.as_str())
                .bind(now.saturating_sub(ms(ages.consumers)))
                .bind(stale.or(floor).unwrap_or(0))
                .fetch_one(db)
                .await?;
            sqlx::query_scalar(past.count())
                .bind(project.as_str())
                .bind(reached.unwrap_or(value::from_seq(Seq(u64::MAX)) - 1))
                .bind(now.saturating_sub(ms(ages.keep)))
                .fetch_one(db)
                .await?
        });
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many rows [`Store::purge_aged`] would purge in the end.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_aged(&self, aged: Aged, keep: Duration) -> Result<u64, StoreError> {
        let Aged { table, expired, .. } = aged;
        let count = format!("SELECT COUNT(*) FROM {table} WHERE {expired}");
        let cutoff = self.now_ms().await?.saturating_sub(ms(keep));
        let count: i64 = on_reader!(self, |db| {
            sqlx::query_scalar(AssertSqlSafe(count)).bind(cutoff).fetch_one(db).await
        })?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}
