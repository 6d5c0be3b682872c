//! What the outcomes of deliveries mean beyond themselves: for their tokens, the statistics and the gate.
//!
//! The same after a provider's answer and after a receipt; written in the transaction that settles them.

use super::cancel::cancel_deliveries;
use super::gate::Gate;
use super::stats::Counts;

pub(super) const LOCK_GATE: &str = "SELECT state FROM push_gates WHERE provider = $1 LOCK_ROWS";

pub(super) const WRITE_GATE: &str = "UPDATE push_gates SET state = $2 WHERE provider = $1";

/// Only a token registered before the push was sent: a new registration is alive again.
pub(super) const BURY_TOKENS: &str = "
    UPDATE push_tokens SET state = CASE WHEN r.suspect = 1 THEN 'suspect' ELSE 'disabled' END,
        reason = 'dead', state_at = NOW_MS
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, CAST(value->>1 AS BIGINT) AS sent_at,
            CAST(value->>2 AS BIGINT) AS suspect
        FROM ROWS($1)) r
    WHERE push_tokens.id = r.id AND push_tokens.registered_at <= r.sent_at
      AND push_tokens.state <> 'disabled'";

/// A disabled one gets nothing more.
pub(super) const CANCEL_BURIED: &str = cancel_deliveries!(
    "dead token",
    "token_id IN (SELECT t.id FROM push_tokens t
        WHERE t.state = 'disabled' AND t.id IN (SELECT CAST(value->>0 AS BIGINT) FROM ROWS($1)))"
);

/// Too many died at once to believe it: those disabled meanwhile are only suspects.
pub(super) const PARDON: &str = "
    UPDATE push_tokens SET state = 'suspect'
    WHERE provider = $1 AND state = 'disabled' AND reason = 'dead' AND state_at >= $2";

pub(super) const ALIVE: &str = "
    UPDATE push_tokens SET last_success_at = NOW_MS,
        state = CASE WHEN state = 'suspect' THEN 'active' ELSE state END,
        reason = CASE WHEN state = 'suspect' THEN NULL ELSE reason END
    WHERE id IN (SELECT CAST(value->>0 AS BIGINT) FROM ROWS($1))";

pub(super) fn read_gate(text: &str) -> Gate {
    serde_json::from_str(text).unwrap_or_default()
}

/// What was learnt from some outcomes.
#[derive(Default)]
pub(super) struct Aftermath {
    pub(super) counts: Counts,
    /// Tokens that reach nobody, each with when the push was sent.
    pub(super) dead: Vec<(i64, i64)>,
    /// Tokens that do.
    pub(super) alive: Vec<[i64; 1]>,
    /// How many of the outcomes say whether a token is alive.
    pub(super) outcomes: u32,
}

impl Aftermath {
    pub(super) fn died(&self) -> u32 {
        u32::try_from(self.dead.len()).unwrap_or(0)
    }

    /// The rows of [`BURY_TOKENS`].
    pub(super) fn dead_rows(&self, suspicious: bool) -> String {
        let row = |(token, sent_at): &(i64, i64)| (*token, *sent_at, i64::from(suspicious));
        super::super::value::json_text(&self.dead.iter().map(row).collect::<Vec<_>>())
    }
}

/// The time, and a provider's gate, which nobody else touches until the transaction ends.
macro_rules! lock_gate {
    ($tx:ident, $dialect:ident, $provider:ident) => {{
        use $crate::store::push::aftermath as sql;
        let now: i64 =
            sqlx::query_scalar($dialect.sql("SELECT NOW_MS")).fetch_one(&mut *$tx).await?;
        let lock = sqlx::query_scalar($dialect.sql(sql::LOCK_GATE)).bind($provider);
        let state: String = lock.fetch_one(&mut *$tx).await?;
        (now, sql::read_gate(&state))
    }};
}

/// Writes an [`Aftermath`], after the guard's `$verdict` on it, and the gate as it is then.
macro_rules! write_aftermath {
    ($tx:ident, $dialect:ident, $provider:ident, $after:ident, $verdict:ident, $gate:ident) => {{
        use $crate::store::push::aftermath as sql;
        use $crate::store::push::cancel::{cancel, write_counts};
        let mut after = $after;
        if !after.dead.is_empty() {
            let rows = after.dead_rows($verdict.suspicious);
            sqlx::query($dialect.sql(sql::BURY_TOKENS)).bind(&rows).execute(&mut *$tx).await?;
            cancel!(
                $tx,
                after.counts,
                sqlx::query_as($dialect.sql(sql::CANCEL_BURIED)).bind(&rows)
            );
        }
        if $verdict.tripped {
            let pardon = sqlx::query($dialect.sql(sql::PARDON));
            pardon.bind($provider).bind($verdict.since).execute(&mut *$tx).await?;
        }
        if !after.alive.is_empty() {
            let rows = value::json_text(&after.alive);
            sqlx::query($dialect.sql(sql::ALIVE)).bind(rows).execute(&mut *$tx).await?;
        }
        let state = value::json_text(&$gate);
        sqlx::query(sql::WRITE_GATE).bind($provider).bind(state).execute(&mut *$tx).await?;
        write_counts!($tx, $dialect, after.counts);
    }};
}
