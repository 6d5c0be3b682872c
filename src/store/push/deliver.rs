//! Deliveries: given to one worker at a time, and what the provider said of them.
//!
//! A worker commits `sending` before it sends, so that nobody else does; its results count only while it
//! holds the lease (the fence tells). A lease that ends gives the delivery back, marked as possibly
//! sent already.

use std::collections::HashMap;

use super::super::{Store, StoreError, value};
use super::GateSettings;
use super::aftermath::{Aftermath, WRITE_GATE};
use super::gate::{Outcome, Word};
use crate::protocol::notify::Lane;

/// Why one of a category that nobody should get twice is not sent again: it may have arrived.
pub const AMBIGUOUS: &str = "ambiguous";
/// Why nobody is told who may not read what it is about.
pub const NO_ACCESS: &str = "no access";

/// A delivery that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Claimed {
    /// Its number.
    pub id: i64,
    /// Counts the claims: results are accepted from the latest holder only.
    pub fence: i64,
    /// The notification.
    pub nid: String,
    /// The project.
    pub project: String,
    /// The user.
    pub user_id: String,
    /// How urgent.
    pub lane: String,
    /// What kind it is.
    pub category: Option<String>,
    /// The device.
    pub token_id: Option<i64>,
    /// Its installation.
    pub client: Option<String>,
    /// Its language.
    pub locale: Option<String>,
    /// Its token, now.
    pub token: Option<String>,
    /// The provider's project the token belongs to, once known.
    pub scope: Option<String>,
    /// What of the message was known when it was decided on, as JSON.
    pub payload: String,
    /// Which attempt this is, from 1.
    pub attempt: i64,
    /// Milliseconds it is still of use.
    pub ttl: i64,
    /// When its event was.
    pub created_at: i64,
}

/// What the provider said of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The delivery.
    pub id: i64,
    /// The claim it was sent under.
    pub fence: i64,
    /// What became of it.
    pub fate: Settlement,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The provider took it, under this ticket.
    Accepted {
        /// To ask for the receipt with; none if the provider gives none: then it is handed over.
        ticket: Option<String>,
        /// When to ask, in milliseconds from now.
        ask_in: i64,
    },
    /// It is tried again, in so many milliseconds.
    Retry {
        /// From now.
        delay: i64,
        /// Why.
        error: String,
        /// Whether it may have arrived.
        ambiguous: bool,
        /// Whether the attempt counts; one that was held back does not.
        counts: bool,
    },
    /// It never will be.
    Failed {
        /// Why.
        error: String,
    },
    /// Its token reaches nobody any more.
    Dead {
        /// What the provider said.
        error: String,
    },
    /// It was not sent: its user knows already, or may not be told any more, or not on this device.
    Withheld {
        /// Why.
        reason: &'static str,
    },
}

/// A delivery that its worker may still send.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Renewed {
    /// The delivery.
    pub id: i64,
    /// Milliseconds for which it is of use.
    pub ttl: i64,
    /// The device's token: it may have another one since.
    pub token: Option<String>,
    /// The provider's project of the token, if it is known.
    pub scope: Option<String>,
}

/// What settling brought to light.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Events counted: lane, event, reason.
    pub events: Vec<(String, &'static str, String)>,
    /// Milliseconds from event to acceptance, by lane.
    pub latencies: Vec<(String, i64)>,
    /// A breaker has just opened.
    pub opened: bool,
    /// So many tokens died that they are only suspected from now on.
    pub spike: bool,
}

const CLAIM: &str = "
    UPDATE push_deliveries SET state = 'sending', owner = $1, fence = fence + 1, attempt = attempt + 1,
        next_at = NOW_MS + $2, sent_at = NOW_MS
    WHERE id IN (SELECT id FROM push_deliveries
        WHERE state IN ('queued', 'retry') AND provider = $3 AND lane = $4 AND next_at <= NOW_MS
          AND expires_at > NOW_MS
        ORDER BY next_at LIMIT $5 SKIP_LOCKED)
    RETURNING id, fence, nid, project, user_id, lane, category, token_id, payload, attempt, created_at,
        expires_at - NOW_MS AS ttl,
        (SELECT token FROM push_tokens t WHERE t.id = push_deliveries.token_id
            AND t.user_id = push_deliveries.user_id) AS token,
        (SELECT scope FROM push_tokens t WHERE t.id = push_deliveries.token_id) AS scope,
        (SELECT client FROM push_tokens t WHERE t.id = push_deliveries.token_id) AS client,
        (SELECT locale FROM push_tokens t WHERE t.id = push_deliveries.token_id) AS locale";

const RENEW: &str = "
    UPDATE push_deliveries SET next_at = NOW_MS + $2, sent_at = NOW_MS
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, CAST(value->>1 AS BIGINT) AS fence FROM ROWS($1)) r
    WHERE push_deliveries.id = r.id AND push_deliveries.fence = r.fence
      AND push_deliveries.state = 'sending' AND expires_at > NOW_MS
    RETURNING push_deliveries.id, expires_at - NOW_MS AS ttl,
        (SELECT token FROM push_tokens t WHERE t.id = push_deliveries.token_id
            AND t.user_id = push_deliveries.user_id) AS token,
        (SELECT scope FROM push_tokens t WHERE t.id = push_deliveries.token_id) AS scope";

/// What failed keeps its message: an operator may have it sent again.
const SETTLE: &str = "
    UPDATE push_deliveries SET state = r.state,
        next_at = NOW_MS + r.delay,
        ticket = COALESCE(r.ticket, push_deliveries.ticket),
        error = COALESCE(r.error, push_deliveries.error),
        ambiguous = CASE WHEN r.ambiguous = 1 THEN 1 ELSE push_deliveries.ambiguous END,
        attempt = attempt - r.uncounted,
        accepted_at = CASE WHEN r.state IN ('accepted', 'handed') THEN COALESCE(accepted_at, NOW_MS)
            ELSE accepted_at END,
        asked = CASE WHEN r.state = 'accepted' THEN 0 ELSE asked END,
        finished_at = CASE WHEN r.state IN ('accepted', 'retry') THEN NULL ELSE NOW_MS END,
        payload = CASE WHEN r.state IN ('accepted', 'retry', 'failed') THEN payload ELSE '' END
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, CAST(value->>1 AS BIGINT) AS fence,
            value->>2 AS state, CAST(value->>3 AS BIGINT) AS delay, value->>4 AS ticket,
            value->>5 AS error, CAST(value->>6 AS BIGINT) AS ambiguous,
            CAST(value->>7 AS BIGINT) AS uncounted
        FROM ROWS($1)) r
    WHERE push_deliveries.id = r.id AND push_deliveries.fence = r.fence
      AND push_deliveries.state = 'sending'
    RETURNING push_deliveries.id, project, lane, push_deliveries.state, token_id,
        COALESCE(sent_at, 0) AS sent_at,
        CASE WHEN accepted_at >= sent_at THEN accepted_at - created_at ELSE -1 END AS latency";

/// `id, project, lane, state, token_id, sent_at, latency`; the latter is negative unless it was accepted for the
/// first time, in this attempt.
type SettledRow = (i64, String, String, String, Option<i64>, i64, i64);

impl Store {
    /// Takes deliveries of these lanes that are due, as many as may be sent to the provider now; they are
    /// `owner`'s alone for `lease_ms`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn claim_deliveries(
        &self,
        provider: &str,
        lanes: &[Lane],
        settings: GateSettings,
        lease_ms: i64,
        owner: &str,
    ) -> Result<Vec<Claimed>, StoreError> {
        let dialect = self.dialect();
        let claimed = in_transaction!(self, |tx| {
            let (now, mut gate) = lock_gate!(tx, dialect, provider);
            let mut claimed: Vec<Claimed> = Vec::new();
            for lane in lanes {
                let mut trial = gate.clone();
                let critical = *lane == Lane::Critical;
                let left = settings.batch.saturating_sub(u32::try_from(claimed.len()).unwrap_or(0));
                let allowed = if claimed.is_empty() || !trial.is_open() {
                    trial.admit(now, critical, left, settings)
                } else {
                    // The probe is under way: what else is due of other lanes joins it.
                    left
                };
                if allowed == 0 {
                    continue;
                }
                let found: Vec<Claimed> = sqlx::query_as(dialect.sql(CLAIM))
                    .bind(owner)
                    .bind(lease_ms)
                    .bind(provider)
                    .bind(lane.as_str())
                    .bind(i64::from(allowed))
                    .fetch_all(&mut *tx)
                    .await?;
                if !found.is_empty() {
                    trial.charge(found.len());
                    gate = trial;
                    claimed.extend(found);
                }
            }
            if !claimed.is_empty() {
                let state = value::json_text(&gate);
                sqlx::query(WRITE_GATE).bind(provider).bind(state).execute(&mut *tx).await?;
            }
            claimed
        });
        Ok(claimed)
    }

    /// Begins a new lease of `lease_ms` for what a worker still holds, each with the fence of its claim. Returns
    /// those that are still its own and of use, with their tokens of now.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn renew_deliveries(
        &self,
        held: &[(i64, i64)],
        lease_ms: i64,
    ) -> Result<Vec<Renewed>, StoreError> {
        let (dialect, rows) = (self.dialect(), value::json_text(&held));
        let renewed = in_transaction!(self, |tx| {
            let renew = sqlx::query_as(dialect.sql(RENEW)).bind(&rows).bind(lease_ms);
            renew.fetch_all(&mut *tx).await?
        });
        Ok(renewed)
    }

    /// Writes what the provider said, where the worker still holds the delivery, and what that means for
    /// tokens and for the provider's breakers.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn settle(
        &self,
        provider: &str,
        settings: GateSettings,
        requests: &[Outcome],
        results: &[Settled],
    ) -> Result<Report, StoreError> {
        let dialect = self.dialect();
        let fates: HashMap<i64, &Settlement> = results.iter().map(|r| (r.id, &r.fate)).collect();
        let rows = value::json_text(&results.iter().map(settled_row).collect::<Vec<_>>());
        let report = in_transaction!(self, |tx| {
            let mut report = Report::default();
            let (now, mut gate) = lock_gate!(tx, dialect, provider);
            for request in requests {
                report.opened |= gate.ended(now, *request, settings);
            }
            let settled: Vec<SettledRow> =
                sqlx::query_as(dialect.sql(SETTLE)).bind(&rows).fetch_all(&mut *tx).await?;
            let after = tell(provider, &settled, &fates, &mut report);
            let verdict = gate.judge(now, Word::Ticket, after.outcomes, after.died());
            report.spike = verdict.tripped;
            write_aftermath!(tx, dialect, provider, after, verdict, gate);
            report
        });
        Ok(report)
    }
}

/// What the outcomes mean beyond themselves; counted in the report as well.
fn tell(
    provider: &str,
    settled: &[SettledRow],
    fates: &HashMap<i64, &Settlement>,
    report: &mut Report,
) -> Aftermath {
    let mut after = Aftermath::default();
    for (id, project, lane, state, token, sent_at, latency) in settled {
        let Some(fate) = fates.get(id) else { continue };
        // Its receipt may have had it sent again: what was accepted once is not sent twice.
        let again = matches!(fate, Settlement::Accepted { .. }) && *latency < 0;
        if let Some((event, reason)) = event(fate).filter(|_| !again) {
            after.counts.add(project, lane, provider, event, reason, 1);
            report.events.push((lane.clone(), event, reason.to_owned()));
        }
        match fate {
            Settlement::Accepted { .. } => {
                if !again {
                    after.counts.latency(project, lane, provider, *latency);
                    report.latencies.push((lane.clone(), *latency));
                }
                if state == "handed" {
                    after.counts.add(project, lane, provider, "handed", "", 1);
                    report.events.push((lane.clone(), "handed", String::new()));
                    // A ticket says nothing of the device; the receipt will.
                    after.alive.extend(token.map(|token| [token]));
                }
                after.outcomes += 1;
            }
            Settlement::Dead { .. } => {
                after.dead.extend(token.map(|token| (token, *sent_at)));
                after.outcomes += 1;
            }
            _ => {}
        }
    }
    after
}

fn settled_row(result: &Settled) -> serde_json::Value {
    let (id, fence) = (result.id, result.fence);
    match &result.fate {
        Settlement::Accepted { ticket: Some(ticket), ask_in } => {
            serde_json::json!([id, fence, "accepted", ask_in, ticket, null, 0, 0])
        }
        Settlement::Accepted { ticket: None, .. } => {
            serde_json::json!([id, fence, "handed", 0, null, null, 0, 0])
        }
        Settlement::Retry { delay, error, ambiguous, counts } => serde_json::json!([
            id,
            fence,
            "retry",
            delay,
            null,
            value::text(error),
            i64::from(*ambiguous),
            i64::from(!counts)
        ]),
        Settlement::Failed { error } => {
            serde_json::json!([id, fence, "failed", 0, null, value::text(error), 0, 0])
        }
        Settlement::Dead { error } => {
            serde_json::json!([id, fence, "dead_token", 0, null, value::text(error), 0, 0])
        }
        Settlement::Withheld { reason } => {
            serde_json::json!([id, fence, "canceled", 0, null, reason, 0, 0])
        }
    }
}

/// What is counted of a settlement, and why.
fn event(fate: &Settlement) -> Option<(&'static str, &str)> {
    match fate {
        Settlement::Accepted { .. } => Some(("sent", "")),
        Settlement::Failed { error } | Settlement::Dead { error } => Some(("failed", error)),
        Settlement::Withheld { reason } => Some(("canceled", reason)),
        Settlement::Retry { .. } => None,
    }
}
