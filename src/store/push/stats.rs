//! What happened, per minute: for rates, reasons and latencies, long after the deliveries are gone.

use std::collections::BTreeMap;

use super::super::{Store, StoreError, value};

/// The bounds of the latency from event to acceptance that are counted, in milliseconds.
pub(super) const LATENCY_MS: [i64; 10] =
    [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 60_000, i64::MAX];

pub(in crate::store) const UPSERT_STATS: &str = "
    INSERT INTO push_stats (minute, project, lane, provider, event, reason, count)
    SELECT NOW_MS / 60000, value->>0, value->>1, value->>2, value->>3, value->>4,
        CAST(value->>5 AS BIGINT)
    FROM ROWS($1) WHERE true
    ON CONFLICT (minute, project, lane, provider, event, reason)
    DO UPDATE SET count = push_stats.count + excluded.count";

const READ: &str = "
    SELECT project, lane, provider, event, reason, CAST(sum(count) AS BIGINT) AS count FROM push_stats
    WHERE minute >= (NOW_MS - $1) / 60000 AND ($2 = '' OR project = $2)
    GROUP BY project, lane, provider, event, reason HAVING sum(count) > 0
    ORDER BY project, lane, provider, event, reason";

const QUEUE: &str = "
    SELECT 'delivery' AS stage, lane, provider, state, count(*) AS count,
        NOW_MS - min(created_at) AS oldest FROM push_deliveries
    WHERE state IN ('queued', 'retry') GROUP BY lane, provider, state
    UNION ALL
    SELECT 'delivery', lane, provider, state, count(*), NOW_MS - min(created_at)
    FROM push_deliveries WHERE state = 'sending' GROUP BY lane, provider, state
    UNION ALL
    SELECT 'receipt', lane, provider, state, count(*), NOW_MS - min(created_at)
    FROM push_deliveries WHERE state = 'accepted' GROUP BY lane, provider, state
    UNION ALL
    SELECT 'intent', lane, '', state, count(*), NOW_MS - min(created_at) FROM push_intents
    WHERE state IN ('waiting', 'claimed') GROUP BY lane, state
    UNION ALL
    SELECT 'intent', lane, '', state, count(*), NOW_MS - min(created_at) FROM push_intents
    WHERE state = 'scheduled' GROUP BY lane, state";

const SECRET: &str =
    "INSERT INTO push_secrets (name, value) VALUES ('callback', $1) ON CONFLICT DO NOTHING";

/// How often something happened: project, lane, provider, event, reason.
#[derive(Debug, Default)]
pub(in crate::store) struct Counts(BTreeMap<[String; 5], i64>);

impl Counts {
    pub(super) fn add(
        &mut self,
        project: &str,
        lane: &str,
        provider: &str,
        event: &str,
        reason: &str,
        count: i64,
    ) {
        let key = [project, lane, provider, event, reason].map(str::to_owned);
        *self.0.entry(key).or_default() += count;
    }

    /// Counts what was canceled: project, lane, provider, reason.
    pub(in crate::store) fn canceled(&mut self, rows: &[(String, String, String, String)]) {
        for (project, lane, provider, reason) in rows {
            self.add(project, lane, provider, "canceled", reason, 1);
        }
    }

    pub(super) fn total(&self) -> i64 {
        self.0.values().sum()
    }

    pub(super) fn extend(&mut self, other: Self) {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }

    /// Counts how long an event took to be accepted.
    pub(super) fn latency(&mut self, project: &str, lane: &str, provider: &str, ms: i64) {
        let bound = LATENCY_MS.into_iter().find(|bound| ms <= *bound).unwrap_or(i64::MAX);
        self.add(project, lane, provider, "latency", &bound.to_string(), 1);
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows of [`UPSERT_STATS`], in one order everywhere.
    pub(in crate::store) fn rows(&self) -> String {
        let row = |([a, b, c, d, e], count): (&[String; 5], &i64)| {
            serde_json::json!([a, b, c, d, e, count])
        };
        value::json_text(&self.0.iter().map(row).collect::<Vec<_>>())
    }
}

/// How often something happened in a while.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct Stat {
    /// The project.
    pub project: String,
    /// How urgent.
    pub lane: String,
    /// Through whom; empty for what never got that far.
    pub provider: String,
    /// `sent`, `handed`, `delivered`, `failed`, `opened`, `missing`, `canceled`, `expired`, `suppressed`,
    /// `latency`.
    pub event: String,
    /// Why; for `latency`, the bound in milliseconds.
    pub reason: String,
    /// How often.
    pub count: i64,
}

/// What waits in one stage of the queue.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct QueueLine {
    /// `intent`, `delivery` or `receipt`.
    pub stage: String,
    /// How urgent.
    pub lane: String,
    /// Through whom.
    pub provider: String,
    /// Its state.
    pub state: String,
    /// How many.
    pub count: i64,
    /// Milliseconds since the event of the oldest.
    pub oldest: i64,
}

impl Store {
    /// What happened in the last `within_ms`, in a project or, if that is empty, in all.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn push_stats(&self, within_ms: i64, project: &str) -> Result<Vec<Stat>, StoreError> {
        let dialect = self.dialect();
        let rows: Result<_, sqlx::Error> = on_reader!(self, |db| {
            let query = sqlx::query_as(dialect.sql(READ)).bind(within_ms).bind(project);
            query.fetch_all(db).await
        });
        Ok(rows?)
    }

    /// What waits, by stage, lane and state.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn push_queue(&self) -> Result<Vec<QueueLine>, StoreError> {
        let dialect = self.dialect();
        let rows: Result<_, sqlx::Error> =
            on_reader!(self, |db| sqlx::query_as(dialect.sql(QUEUE)).fetch_all(db).await);
        Ok(rows?)
    }

    /// The key all instances sign with what clients report back; `fresh` if there is none yet.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn push_secret(&self, fresh: &str) -> Result<String, StoreError> {
        execute!(self, sqlx::query(SECRET).bind(fresh));
        let secret: Result<String, sqlx::Error> = on_reader!(self, |db| {
            sqlx::query_scalar("SELECT value FROM push_secrets WHERE name = 'callback'")
                .fetch_one(db)
                .await
        });
        Ok(secret?)
    }
}
