//! What time and operators do to deliveries: leases end, pushes get too old, breakers are closed by hand.

use super::super::{Store, StoreError, value};
use super::aftermath::{LOCK_GATE, WRITE_GATE, read_gate};
use super::cancel::{Counts, write_counts};
use super::deliver::AMBIGUOUS;
use super::gate::{Gate, receipts_gate};

const BEGIN_GATES: &str =
    "INSERT INTO push_gates (provider, state) VALUES ($1, '{}'), ($2, '{}') ON CONFLICT DO NOTHING";

const REAP: &str = "
    UPDATE push_deliveries SET
        state = CASE WHEN category IN (SELECT value->>0 FROM ROWS($1)) THEN 'failed' ELSE 'retry' END,
        finished_at = CASE WHEN category IN (SELECT value->>0 FROM ROWS($1)) THEN NOW_MS END,
        error = CASE WHEN category IN (SELECT value->>0 FROM ROWS($1)) THEN 'ambiguous'
            ELSE 'the worker stopped while sending' END,
        ambiguous = 1, next_at = NOW_MS
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
    UPDATE push_deliveries SET state = 'retry', next_at = NOW_MS, attempt = 0
    WHERE id = $1 AND state = 'failed' AND payload <> '' AND expires_at > NOW_MS
    RETURNING project, lane, provider, COALESCE(error, ''), COALESCE(finished_at, NOW_MS) / 60000 + 1";

const BEGIN_ANEW: &str = "UPDATE push_deliveries SET finished_at = NULL, asked = 0 WHERE id = $1";

/// It has not failed after all: that is taken back where it was counted, or close to it.
const TAKE_BACK: &str = "
    UPDATE push_stats SET count = count - 1
    WHERE event = 'failed' AND project = $1 AND lane = $2 AND provider = $3 AND reason = $4
      AND minute = (SELECT max(minute) FROM push_stats WHERE event = 'failed' AND project = $1
        AND lane = $2 AND provider = $3 AND reason = $4 AND count > 0 AND minute <= $5)";

/// `project, lane, provider, error, the minute after it failed`
type FailedRow = (String, String, String, String, i64);

/// What a look after the queue ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// How many were taken back from silent workers.
    pub returned: usize,
    /// What came to an end: lane, event, provider.
    pub ended: Vec<(String, String, String)>,
}

/// `state, too late`
const WHY_NOT: &str = "
    SELECT state, CAST(CASE WHEN expires_at <= NOW_MS THEN 1 ELSE 0 END AS BIGINT)
    FROM push_deliveries WHERE id = $1";

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
    /// Makes a provider's shared state, for what is sent and for receipts, if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn begin_gate(&self, provider: &str) -> Result<(), StoreError> {
        execute!(self, sqlx::query(BEGIN_GATES).bind(provider).bind(receipts_gate(provider)));
        Ok(())
    }

    /// The shared states of all providers, for what is sent and for receipts, each with the time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn gates(&self) -> Result<Vec<(String, Gate, i64)>, StoreError> {
        const ALL: &str = "SELECT provider, state, NOW_MS FROM push_gates ORDER BY provider";
        let dialect = self.dialect();
        let rows: Result<Vec<(String, String, i64)>, sqlx::Error> =
            on_reader!(self, |db| sqlx::query_as(dialect.sql(ALL)).fetch_all(db).await);
        Ok(rows?.into_iter().map(|(name, state, now)| (name, read_gate(&state), now)).collect())
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
            for name in [provider, &receipts_gate(provider)] {
                let state: Option<String> = sqlx::query_scalar(dialect.sql(LOCK_GATE))
                    .bind(name)
                    .fetch_optional(&mut *tx)
                    .await?;
                let mut gate = state.map_or_else(Gate::default, |state| read_gate(&state));
                gate.close();
                let state = value::json_text(&gate);
                sqlx::query(WRITE_GATE).bind(name).bind(state).execute(&mut *tx).await?;
            }
            sqlx::query(dialect.sql(RETRY_NOW)).execute(&mut *tx).await?.rows_affected()
        });
        Ok(due)
    }

    /// Gives a failed delivery another chance. Whether its user is still to be told is asked again when it is sent.
    ///
    /// # Errors
    /// See [`StoreError`]; within, why it is not tried again.
    pub async fn retry_failed(&self, id: i64) -> Result<Result<(), NoRetry>, StoreError> {
        let dialect = self.dialect();
        let retried = in_transaction!(self, |tx| {
            let retried: Option<FailedRow> =
                sqlx::query_as(dialect.sql(RETRY_FAILED)).bind(id).fetch_optional(&mut *tx).await?;
            if let Some((project, lane, provider, error, minute)) = retried {
                sqlx::query(BEGIN_ANEW).bind(id).execute(&mut *tx).await?;
                let take_back = sqlx::query(TAKE_BACK).bind(project).bind(lane).bind(provider);
                take_back.bind(error).bind(minute).execute(&mut *tx).await?;
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
    /// what is of no use any more.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn reap_deliveries(&self, drop_ambiguous: &[String]) -> Result<Reaped, StoreError> {
        let dialect = self.dialect();
        let drop: Vec<_> = drop_ambiguous.iter().map(|category| [category]).collect();
        let drop = value::json_text(&drop);
        let reaped = in_transaction!(self, |tx| {
            let mut rows: Vec<(String, String, String, String)> =
                sqlx::query_as(dialect.sql(REAP)).bind(&drop).fetch_all(&mut *tx).await?;
            let mut reaped = Reaped { returned: rows.len(), ended: Vec::new() };
            let expired: Vec<_> = sqlx::query_as(dialect.sql(EXPIRE)).fetch_all(&mut *tx).await?;
            rows.extend(expired);
            let mut counts = Counts::default();
            for (project, lane, provider, state) in rows {
                let (event, reason) = match &*state {
                    "failed" => ("failed", AMBIGUOUS),
                    "expired" => ("expired", "ttl"),
                    _ => continue,
                };
                counts.add(&project, &lane, &provider, event, reason, 1);
                reaped.ended.push((lane, event.to_owned(), provider));
            }
            write_counts!(tx, dialect, counts);
            reaped
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
