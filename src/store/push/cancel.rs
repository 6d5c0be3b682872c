//! What is canceled before a provider has it: how it ends, and how that is counted.
//!
//! Whoever cancels says which in a statement of its own, made with [`cancel_intents`] and
//! [`cancel_deliveries`]; run by [`cancel`], what it ended is counted under its reason, once, in the transaction
//! that ends it ([`write_counts`]). Only acknowledgements are counted a moment later: see [`Canceled`].

use super::super::{Store, StoreError};
pub(in crate::store) use super::stats::{Counts, UPSERT_STATS};

/// `project, lane, provider, reason`; an intent has no provider.
pub(in crate::store) type Row = (String, String, String, String);

/// Cancels the armed pushes of which something is true.
macro_rules! cancel_intents {
    ($reason:literal, $which:literal) => {
        concat!(
            "
    UPDATE push_intents SET state = 'canceled', reason = '",
            $reason,
            "', updated_at = NOW_MS
    WHERE ",
            $which,
            "
    RETURNING project, lane, '' AS provider, reason"
        )
    };
}

/// Cancels the deliveries that no worker has and of which something is true.
macro_rules! cancel_deliveries {
    ($reason:literal, $which:literal) => {
        concat!(
            "
    UPDATE push_deliveries SET state = 'canceled', error = '",
            $reason,
            "', finished_at = NOW_MS, payload = ''
    WHERE state IN ('queued', 'retry') AND ",
            $which,
            "
    RETURNING project, lane, provider, error"
        )
    };
}

/// Runs such a statement, and counts what it canceled.
macro_rules! cancel {
    ($tx:ident, $counts:expr, $query:expr) => {{
        let rows: Vec<$crate::store::push::cancel::Row> = $query.fetch_all(&mut *$tx).await?;
        $counts.canceled(&rows);
    }};
}

/// Writes what was counted, if anything was: last in its transaction, because many write the same rows.
macro_rules! write_counts {
    ($tx:ident, $dialect:ident, $counts:expr) => {
        if !$counts.is_empty() {
            sqlx::query($dialect.sql($crate::store::push::cancel::UPSERT_STATS))
                .bind($counts.rows())
                .execute(&mut *$tx)
                .await?;
        }
    };
}

/// What waits for somebody who is taken out of a project: `$1` and `$2` are the project and the user.
pub(in crate::store) const OF_MEMBER: [&str; 3] = [
    cancel_intents!("no access", "state = 'waiting' AND project = $1 AND user_id = $2"),
    cancel_intents!("no access", "state = 'scheduled' AND project = $1 AND user_id = $2"),
    cancel_deliveries!("no access", "project = $1 AND user_id = $2"),
];

/// Cancels, and counts, what waits for somebody who is just being taken out of a project.
macro_rules! cancel_of_member {
    ($tx:ident, $dialect:ident, $counts:expr, $project:expr, $user:expr) => {
        for text in $crate::store::push::cancel::OF_MEMBER {
            let query = sqlx::query_as($dialect.sql(text));
            let query = query.bind($project.as_str()).bind($user.as_str());
            $crate::store::push::cancel::cancel!($tx, $counts, query);
        }
    };
}

pub(in crate::store) use {cancel, cancel_of_member, write_counts};
pub(super) use {cancel_deliveries, cancel_intents};

/// What acknowledgements canceled, not counted yet. They come by the thousand for one change, and a row of the
/// statistics that each of them had to lock would make them wait for each other while graces end; so they are
/// counted together, after they are committed.
#[derive(Debug, Default)]
pub struct Canceled {
    pub(super) counts: Counts,
}

impl Canceled {
    /// How many pushes.
    #[must_use]
    pub fn total(&self) -> u64 {
        u64::try_from(self.counts.total()).unwrap_or(0)
    }

    /// Adds what others canceled.
    pub fn add(&mut self, other: Self) {
        self.counts.extend(other.counts);
    }
}

impl Store {
    /// Counts what acknowledgements canceled.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is counted then.
    pub async fn count_canceled(&self, canceled: &Canceled) -> Result<(), StoreError> {
        let (dialect, counts) = (self.dialect(), &canceled.counts);
        in_transaction!(self, |tx| write_counts!(tx, dialect, counts));
        Ok(())
    }
}
