//! Pushes: claimed under a lease when they are due, disarmed by an acknowledgement.
//!
//! They are armed by [`Store::commit`], in the transaction of the change they are about.

use super::{DueIntent, Inner, Store, StoreError, value};
use crate::id::{ClientId, ProjectId, Seq, UserId};

const UPSERT_CURSOR: &str = "
    INSERT INTO device_cursors (user_id, client, project, acked, active, last_seen)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (user_id, client, project) DO UPDATE SET
        acked = CASE WHEN excluded.acked > device_cursors.acked
                THEN excluded.acked ELSE device_cursors.acked END,
        active = excluded.active, last_seen = excluded.last_seen";

const CANCEL: &str = "
    UPDATE push_intents SET state = 'canceled', updated_at = $4
    WHERE project = $1 AND user_id = $2 AND evt_seq <= $3 AND state = 'waiting'";

/// The due ones, the most urgent first, become the owner's until the lease ends; one statement, so it
/// is atomic on both engines. `$lock` keeps PostgreSQL's claimers out of each other's way.
macro_rules! claim {
    ($lock:literal) => {
        concat!(
            "WITH due AS MATERIALIZED (
                SELECT id FROM push_intents
                WHERE state IN ('waiting', 'claimed') AND not_before <= $2
                ORDER BY lane, not_before LIMIT $4 ",
            $lock,
            ")
            UPDATE push_intents SET state = 'claimed', owner = $1, not_before = $3,
                updated_at = $2, fence = fence + 1
            WHERE id IN (SELECT id FROM due)
            RETURNING id, nid, project, user_id, lane, evt_seq, fence,
                (SELECT title FROM notifications n WHERE n.nid = push_intents.nid) AS title,
                (SELECT body FROM notifications n WHERE n.nid = push_intents.nid) AS body,
                (SELECT data FROM notifications n WHERE n.nid = push_intents.nid) AS data,
                (SELECT link FROM notifications n WHERE n.nid = push_intents.nid) AS link"
        )
    };
}

/// The fence rises with every claim, so it alone tells the latest holder from the ones before.
const FINISH: &str = "
    UPDATE push_intents SET state = $3, updated_at = $4
    WHERE id = $1 AND fence = $2 AND state = 'claimed'";

#[derive(sqlx::FromRow)]
struct IntentRow {
    id: i64,
    nid: String,
    project: String,
    user_id: String,
    lane: String,
    evt_seq: i64,
    fence: i64,
    title: String,
    body: String,
    data: Option<String>,
    link: Option<String>,
}

impl IntentRow {
    fn read(self) -> Result<DueIntent, StoreError> {
        Ok(DueIntent {
            id: self.id,
            nid: self.nid,
            project: value::name(&self.project)?,
            user: value::name(&self.user_id)?,
            lane: value::lane(&self.lane)?,
            title: self.title,
            body: self.body,
            data: self.data,
            link: self.link,
            evt_seq: value::seq(self.evt_seq),
            fence: self.fence,
        })
    }
}

impl Store {
    /// Records that an installation has stored everything up to `seq`; what it acknowledged only
    /// rises. If it is `active`, a person has seen it: the user's pushes up to there are canceled
    /// unless a worker already has them. Returns how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn ack(
        &self,
        project: &ProjectId,
        user: &UserId,
        client: &ClientId,
        seq: Seq,
        active: bool,
        now_ms: i64,
    ) -> Result<u64, StoreError> {
        let seq = value::from_seq(seq);
        let canceled = in_transaction!(self, |tx| {
            sqlx::query(UPSERT_CURSOR)
                .bind(user.as_str())
                .bind(client.as_str())
                .bind(project.as_str())
                .bind(seq)
                .bind(active)
                .bind(now_ms)
                .execute(&mut *tx)
                .await?;
            if active {
                sqlx::query(CANCEL)
                    .bind(project.as_str())
                    .bind(user.as_str())
                    .bind(seq)
                    .bind(now_ms)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected()
            } else {
                0
            }
        });
        Ok(canceled)
    }

    /// Takes pushes that are due, or whose holder's lease has ended, the most urgent first; they are
    /// `owner`'s alone for `lease_ms`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn claim_intents(
        &self,
        now_ms: i64,
        limit: u32,
        lease_ms: i64,
        owner: &str,
    ) -> Result<Vec<DueIntent>, StoreError> {
        let lease_end = now_ms.saturating_add(lease_ms);
        let rows: Vec<IntentRow> = match &self.inner {
            Inner::Sqlite { writer, .. } => {
                sqlx::query_as(claim!(""))
                    .bind(owner)
                    .bind(now_ms)
                    .bind(lease_end)
                    .bind(i64::from(limit))
                    .fetch_all(writer)
                    .await?
            }
            Inner::Postgres(pool) => {
                sqlx::query_as(claim!("FOR UPDATE SKIP LOCKED"))
                    .bind(owner)
                    .bind(now_ms)
                    .bind(lease_end)
                    .bind(i64::from(limit))
                    .fetch_all(pool)
                    .await?
            }
        };
        let mut due = rows.into_iter().map(IntentRow::read).collect::<Result<Vec<_>, _>>()?;
        due.sort_by_key(|intent| (intent.lane.as_str(), intent.evt_seq));
        Ok(due)
    }

    /// Ends a claimed push in `state`. False if the lease was lost: someone else decides.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn finish_intent(
        &self,
        id: i64,
        fence: i64,
        state: &str,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let finished =
            execute!(self, sqlx::query(FINISH).bind(id).bind(fence).bind(state).bind(now_ms));
        Ok(finished == 1)
    }
}
