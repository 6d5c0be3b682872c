//! What time and operators do to deliveries: leases end, pushes get too old, breakers are closed by hand.

use super::super::{Store, StoreError, value};
use super::aftermath::{LOCK_GATE, WRITE_GATE, read_gate};
use super::gate::Gate;
use super::stats::{Counts, UPSERT_STATS};

const BEGIN_GATE: &str =
    "INSERT INTO push_gates (provider, state) VALUES ($1, '{}') ON CONFLICT DO NOTHING";

const REAP: &str = "
    UPDATE push_deliveries SET
        state = CASE WHEN category IN (SELECT value->>0 FROM ROWS($1)) THEN 'failed' ELSE 'retry' END,
        finished_at = CASE WHEN category IN (SELECT value->>0 FROM ROWS($1)) THEN NOW_MS END,
        error = 'the worker stopped while sending', ambiguous = 1, next_at = NOW_MS
    WHERE state = 'sending' AND next_at <= NOW_MS
    RETURNING project, lane, provider, state";

const EXPIRE: &str = "
    UPDATE push_deliveries SET state = 'expired', finished_at = NOW_MS, payload = ''
    WHERE state IN ('queued', 'retry') AND expires_at <= NOW_MS
    RETURNING project, lane, provider, state";

const SCOPE: &str = "
    UPDATE push_tokens SET scope = r.scope
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, value->>1 AS scope FROM ROWS($1)) r
    WHERE push_tokens.id = r.id";

const NEXT: &str = "
    SELECT min(at) - NOW_MS FROM (
        SELECT min(next_at) AS at FROM push_deliveries
            WHERE state IN ('queued', 'retry') AND provider = $1 AND lane = 'critical'
        UNION ALL
        SELECT min(next_at) FROM push_deliveries
            WHERE state IN ('queued', 'retry') AND provider = $1 AND lane = 'high'
        UNION ALL
        SELECT min(next_at) FROM push_deliveries
            WHERE state IN ('queued', 'retry') AND provider = $1 AND lane = 'normal') d";

const RETRY_NOW: &str = "
    UPDATE push_deliveries SET next_at = NOW_MS WHERE state = 'retry' AND next_at > NOW_MS";

const RETRY_FAILED: &str = "
    UPDATE push_deliveries SET state = 'retry', next_at = NOW_MS, attempt = 0, finished_at = NULL
    WHERE id = $1 AND state = 'failed' AND payload <> '' AND expires_at > NOW_MS";

/// `state, too late`
const WHY_NOT: &str = "
    SELECT state, CASE WHEN expires_at <= NOW_MS THEN 1 ELSE 0 END FROM push_deliveries WHERE id = $1";

/// Why a delivery is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRetry {
    /// There is none of this number.
    #[error("there is no such delivery; `push.keep` says how long they are kept")]
    Unknown,
    /// It waits still, or ended in another way.
    #[error("it has not failed: its state is `{0}`")]
    NotFailed(String),
    /// It would come too late.
    #[error("it is of no use any more: its `ttl` is over")]
    TooLate,
    /// It failed under a version that did not keep it.
    #[error("its text was not kept; notify the user anew")]
    Forgotten,
}

impl Store {
    /// Makes a provider's shared state, if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn begin_gate(&self, provider: &str) -> Result<(), StoreError> {
        execute!(self, sqlx::query(BEGIN_GATE).bind(provider));
        Ok(())
    }

    /// A provider's shared state, and the time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn gate(&self, provider: &str) -> Result<(Gate, i64), StoreError> {
        let dialect = self.dialect();
        let row: Result<Option<(String, i64)>, sqlx::Error> = on_reader!(self, |db| {
            sqlx::query_as(dialect.sql("SELECT state, NOW_MS FROM push_gates WHERE provider = $1"))
                .bind(provider)
                .fetch_optional(db)
                .await
        });
        Ok(row?.map_or((Gate::default(), 0), |(state, now)| (read_gate(&state), now)))
    }

    /// Closes a provider's breakers and makes everything that waits for another attempt due.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn reopen_gate(&self, provider: &str) -> Result<u64, StoreError> {
        let dialect = self.dialect();
        let due = in_transaction!(self, |tx| {
            let state: Option<String> = sqlx::query_scalar(dialect.sql(LOCK_GATE))
                .bind(provider)
                .fetch_optional(&mut *tx)
                .await?;
            let mut gate = state.map_or_else(Gate::default, |state| read_gate(&state));
            gate.close();
            let state = value::json_text(&gate);
            sqlx::query(WRITE_GATE).bind(provider).bind(state).execute(&mut *tx).await?;
            sqlx::query(dialect.sql(RETRY_NOW)).execute(&mut *tx).await?.rows_affected()
        });
        Ok(due)
    }

    /// Gives a failed delivery another chance, with what it said when it was decided on. Whether its user may
    /// still be told is asked again when it is sent.
    ///
    /// # Errors
    /// See [`StoreError`]; within, why it is not tried again.
    pub async fn retry_failed(&self, id: i64) -> Result<Result<(), NoRetry>, StoreError> {
        let dialect = self.dialect();
        let retried = in_transaction!(self, |tx| {
            let retry = sqlx::query(dialect.sql(RETRY_FAILED)).bind(id).execute(&mut *tx).await?;
            if retry.rows_affected() > 0 {
                Ok(())
            } else {
                let found: Option<(String, i64)> =
                    sqlx::query_as(dialect.sql(WHY_NOT)).bind(id).fetch_optional(&mut *tx).await?;
                Err(match found {
                    None => NoRetry::Unknown,
                    Some((state, _)) if state != "failed" => NoRetry::NotFailed(state),
                    Some((_, 1)) => NoRetry::TooLate,
                    Some(_) => NoRetry::Forgotten,
                })
            }
        });
        Ok(retried)
    }

    /// Returns what silent workers hold, except of the categories that nobody should get twice, and ends
    /// what is of no use any more. Returns how many were returned.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn reap_deliveries(&self, drop_ambiguous: &[String]) -> Result<usize, StoreError> {
        let dialect = self.dialect();
        let drop: Vec<_> = drop_ambiguous.iter().map(|category| [category]).collect();
        let drop = value::json_text(&drop);
        let reaped = in_transaction!(self, |tx| {
            let reaped: Vec<(String, String, String, String)> =
                sqlx::query_as(dialect.sql(REAP)).bind(&drop).fetch_all(&mut *tx).await?;
            let expired: Vec<(String, String, String, String)> =
                sqlx::query_as(dialect.sql(EXPIRE)).fetch_all(&mut *tx).await?;
            let mut counts = Counts::default();
            for (project, lane, provider, state) in reaped.iter().chain(&expired) {
                match &**state {
                    "failed" => counts.add(project, lane, provider, "failed", "ambiguous", 1),
                    "expired" => counts.add(project, lane, provider, "expired", "ttl", 1),
                    _ => {}
                }
            }
            if !counts.is_empty() {
                sqlx::query(dialect.sql(UPSERT_STATS))
                    .bind(counts.rows())
                    .execute(&mut *tx)
                    .await?;
            }
            reaped.len()
        });
        Ok(reaped)
    }

    /// Notes which of the provider's projects tokens belong to.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn scope_tokens(&self, scopes: &[(i64, String)]) -> Result<(), StoreError> {
        let dialect = self.dialect();
        execute!(self, sqlx::query(dialect.sql(SCOPE)).bind(value::json_text(&scopes)));
        Ok(())
    }

    /// How many milliseconds until the provider's next delivery may be sent; none if none waits.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn next_delivery(&self, provider: &str) -> Result<Option<i64>, StoreError> {
        let dialect = self.dialect();
        let ms: Result<Option<i64>, sqlx::Error> = on_reader!(self, |db| {
            sqlx::query_scalar(dialect.sql(NEXT)).bind(provider).fetch_one(db).await
        });
        Ok(ms?)
    }
}
