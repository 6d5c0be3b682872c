//! Receipts: what became of what a provider accepted, and what devices say of it themselves.

use super::super::{Store, StoreError, value};
use super::aftermath::{Aftermath, WRITE_GATE};
use super::cancel::{Counts, write_counts};
use super::deliver::Report;
use super::gate::{GateSettings, Outcome, Word, receipts_gate};

/// A delivery whose receipt is due.
#[derive(Debug, Default, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Awaiting {
    /// Its number.
    pub id: i64,
    /// The ticket to ask with.
    pub ticket: String,
    /// How often it was asked for before.
    pub asked: i64,
    /// Which attempt was accepted.
    pub attempt: i64,
    /// How urgent.
    pub lane: String,
    /// Milliseconds since it was accepted.
    pub age: i64,
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptVerdict {
    /// Handed over to the device's platform.
    Handed,
    /// Not known yet: ask again in so many milliseconds.
    NotReady(i64),
    /// It will not come any more.
    Missing,
    /// It did not get there; it is tried again.
    Retry {
        /// In so many milliseconds.
        delay: i64,
        /// Why.
        error: String,
        /// Whether the attempt counts.
        counts: bool,
    },
    /// It did not get there and never will.
    Failed(String),
    /// Its token reaches nobody any more.
    Dead(String),
}

const CLAIM: &str = "
    UPDATE push_deliveries SET next_at = NOW_MS + $1
    WHERE id IN (SELECT id FROM push_deliveries WHERE state = 'accepted' AND provider = $2
        AND next_at <= NOW_MS ORDER BY next_at LIMIT $3 SKIP_LOCKED)
    RETURNING id, COALESCE(ticket, '') AS ticket, asked, attempt, lane,
        NOW_MS - COALESCE(accepted_at, NOW_MS) AS age";

const SETTLE: &str = "
    UPDATE push_deliveries SET state = r.state, next_at = NOW_MS + r.delay, asked = push_deliveries.asked + r.asked,
        error = COALESCE(r.error, push_deliveries.error), attempt = attempt - r.uncounted,
        finished_at = CASE WHEN r.state IN ('accepted', 'retry') THEN NULL ELSE NOW_MS END,
        payload = CASE WHEN r.state IN ('accepted', 'retry', 'failed') THEN payload ELSE '' END
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, value->>1 AS state, CAST(value->>2 AS BIGINT) AS delay,
            value->>3 AS error, CAST(value->>4 AS BIGINT) AS asked,
            CAST(value->>5 AS BIGINT) AS uncounted
        FROM ROWS($1)) r
    WHERE push_deliveries.id = r.id AND push_deliveries.state = 'accepted'
    RETURNING push_deliveries.state, project, lane, COALESCE(push_deliveries.error, '') AS error,
        token_id, COALESCE(sent_at, 0) AS sent_at";

/// Once each, whatever is said again. Who can say it was sent it, and may be faster than what the provider says. What
/// it knows a gathered push by is the latest that was left of it then.
macro_rules! reported {
    ($at:literal) => {
        concat!(
            "
    UPDATE push_deliveries SET ",
            $at,
            " = NOW_MS
    WHERE (nid = $1 OR nid = (SELECT leader FROM push_intents WHERE nid = $1)) AND token_id = $2
      AND ",
            $at,
            " IS NULL AND sent_at IS NOT NULL
    RETURNING project, lane, provider"
        )
    };
}

const RECEIVED: &str = reported!("received_at");
const OPENED: &str = reported!("opened_at");

/// `state, project, lane, error, token_id, sent_at`
type SettledRow = (String, String, String, String, Option<i64>, i64);

/// What the receipts mean beyond their deliveries; counted in the report as well.
fn tell(provider: &str, settled: &[SettledRow], report: &mut Report) -> Aftermath {
    let mut after = Aftermath::default();
    for (state, project, lane, error, token, sent_at) in settled {
        let (event, reason) = match &**state {
            "handed" => ("handed", ""),
            "missing" => ("missing", ""),
            "failed" | "dead_token" => ("failed", error.as_str()),
            _ => continue,
        };
        after.counts.add(project, lane, provider, event, reason, 1);
        report.events.push((lane.clone(), event, reason.to_owned()));
        match &**state {
            "handed" => {
                after.alive.extend(token.map(|token| [token]));
                after.outcomes += 1;
            }
            "dead_token" => {
                after.dead.extend(token.map(|token| (token, *sent_at)));
                after.outcomes += 1;
            }
            _ => {}
        }
    }
    after
}

impl Store {
    /// Takes deliveries whose receipts are due, unless the provider is not to be asked now; nobody else asks for them
    /// for `lease_ms`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn claim_receipts(
        &self,
        provider: &str,
        settings: GateSettings,
        lease_ms: i64,
    ) -> Result<Vec<Awaiting>, StoreError> {
        let (dialect, name) = (self.dialect(), &receipts_gate(provider));
        let rows = in_transaction!(self, |tx| {
            let (now, mut gate) = lock_gate!(tx, dialect, name);
            let limit = gate.admit(now, true, settings.batch, settings);
            let mut rows: Vec<Awaiting> = Vec::new();
            if limit > 0 {
                let claim = sqlx::query_as(dialect.sql(CLAIM)).bind(lease_ms).bind(provider);
                rows = claim.bind(i64::from(limit)).fetch_all(&mut *tx).await?;
            }
            // Otherwise there is no news.
            if gate.is_open() && !rows.is_empty() {
                let state = value::json_text(&gate);
                sqlx::query(WRITE_GATE).bind(name).bind(state).execute(&mut *tx).await?;
            }
            rows
        });
        Ok(rows)
    }

    /// Writes what receipts said, what that means for tokens, and how the requests for them ended.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn settle_receipts(
        &self,
        provider: &str,
        settings: GateSettings,
        outcomes: &[Outcome],
        verdicts: &[(i64, ReceiptVerdict)],
    ) -> Result<Report, StoreError> {
        let (dialect, name) = (self.dialect(), &receipts_gate(provider));
        let rows = value::json_text(&verdicts.iter().map(row).collect::<Vec<_>>());
        let report = in_transaction!(self, |tx| {
            let mut report = Report::default();
            let (now, mut gate) = lock_gate!(tx, dialect, provider);
            if !outcomes.is_empty() {
                let (_, mut own) = lock_gate!(tx, dialect, name);
                for outcome in outcomes {
                    report.opened |= own.ended(now, *outcome, settings);
                }
                let state = value::json_text(&own);
                sqlx::query(WRITE_GATE).bind(name).bind(state).execute(&mut *tx).await?;
            }
            let settled: Vec<SettledRow> =
                sqlx::query_as(dialect.sql(SETTLE)).bind(&rows).fetch_all(&mut *tx).await?;
            let after = tell(provider, &settled, &mut report);
            let verdict = gate.judge(now, Word::Receipt, after.outcomes, after.died());
            report.spike = verdict.tripped;
            write_aftermath!(tx, dialect, provider, after, verdict, gate);
            report
        });
        Ok(report)
    }

    /// Notes that a device says it got a push, or that somebody opened it. Once each; returns the lane,
    /// event and provider of what was new.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn push_reported(
        &self,
        nid: &str,
        token: i64,
        opened: bool,
    ) -> Result<Vec<(String, String, String)>, StoreError> {
        let dialect = self.dialect();
        let news = in_transaction!(self, |tx| {
            let mut counts = Counts::default();
            let mut news = Vec::new();
            // Who opened it has it.
            let steps = if opened {
                &[(RECEIVED, "delivered"), (OPENED, "opened")][..]
            } else {
                &[(RECEIVED, "delivered")][..]
            };
            for (sql, event) in steps {
                let rows: Vec<(String, String, String)> = sqlx::query_as(dialect.sql(sql))
                    .bind(nid)
                    .bind(token)
                    .fetch_all(&mut *tx)
                    .await?;
                for (project, lane, provider) in rows {
                    counts.add(&project, &lane, &provider, event, "", 1);
                    news.push((lane, (*event).to_owned(), provider));
                }
            }
            write_counts!(tx, dialect, counts);
            news
        });
        Ok(news)
    }
}

fn row((id, verdict): &(i64, ReceiptVerdict)) -> serde_json::Value {
    match verdict {
        ReceiptVerdict::Handed => serde_json::json!([id, "handed", 0, null, 1, 0]),
        ReceiptVerdict::NotReady(delay) => serde_json::json!([id, "accepted", delay, null, 1, 0]),
        ReceiptVerdict::Missing => serde_json::json!([id, "missing", 0, null, 1, 0]),
        ReceiptVerdict::Retry { delay, error, counts } => {
            serde_json::json!([id, "retry", delay, value::text(error), 1, i64::from(!counts)])
        }
        ReceiptVerdict::Failed(error) => {
            serde_json::json!([id, "failed", 0, value::text(error), 1, 0])
        }
        ReceiptVerdict::Dead(error) => {
            serde_json::json!([id, "dead_token", 0, value::text(error), 1, 0])
        }
    }
}
