//! Jobs that one instance does at a time: a row says who, until when by the database's clock.
//!
//! Each transaction of the job renews the lease first, under the row's lock: a holder that lost it changes
//! nothing any more, and nobody takes it over while a transaction is under way.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::{Store, StoreError};

/// The right to do a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub(super) name: &'static str,
    /// Rises with every change of holder.
    pub(super) fence: i64,
    pub(super) ttl_ms: i64,
}

const ACQUIRE: &str = "
    INSERT INTO leases (name, owner, fence, expires_at) VALUES ($1, $2, 1, {now} + $3)
    ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner, fence = leases.fence + 1, expires_at = excluded.expires_at
    WHERE leases.expires_at <= {now}
    RETURNING fence";

/// Takes the row's lock until the transaction ends, and tells the time.
pub(super) const RENEW: &str = "
    UPDATE leases SET expires_at = {now} + $3
    WHERE name = $1 AND fence = $2 AND expires_at > {now} RETURNING expires_at - $3";

const RELEASE: &str = "UPDATE leases SET expires_at = 0 WHERE name = $1 AND fence = $2";

/// Renews a lease in a transaction: the time by the database's clock, or none if it is lost.
macro_rules! renewed {
    ($store:expr, $tx:expr, $lease:expr) => {
        sqlx::query_scalar::<_, i64>($store.with_clock($crate::store::lease::RENEW))
            .bind($lease.name)
            .bind($lease.fence)
            .bind($lease.ttl_ms)
            .fetch_optional(&mut *$tx)
            .await?
    };
}
pub(super) use renewed;

impl Store {
    /// Takes the right to do a job, for `ttl` from now; none if somebody has it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn lease(
        &self,
        name: &'static str,
        owner: &str,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let ttl_ms = ms(ttl);
        let fence: Option<i64> = in_transaction!(self, |tx| {
            sqlx::query_scalar(self.with_clock(ACQUIRE))
                .bind(name)
                .bind(owner)
                .bind(ttl_ms)
                .fetch_optional(&mut *tx)
                .await?
        });
        Ok(fence.map(|fence| Lease { name, fence, ttl_ms }))
    }

    /// Gives the right back, if it is still held.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        execute!(self, sqlx::query(RELEASE).bind(lease.name).bind(lease.fence));
        Ok(())
    }

    /// A statement in which `{now}` is the database's clock, in milliseconds since the Unix epoch.
    pub(super) fn with_clock(&self, sql: &str) -> AssertSqlSafe<String> {
        let now = if self.groups_projects() {
            "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
        } else {
            "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
        };
        AssertSqlSafe(sql.replace("{now}", now))
    }

    /// The database's clock, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn now_ms(&self) -> Result<i64, StoreError> {
        let sql = self.with_clock("SELECT {now}");
        Ok(on_reader!(self, |db| sqlx::query_scalar(sql).fetch_one(db).await)?)
    }
}

/// A duration as the database counts.
pub(super) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
