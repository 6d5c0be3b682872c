//! Acknowledgements: they cancel what no provider has yet.

use super::super::{Store, StoreError, value};
use super::cancel::{Canceled, Counts, cancel, cancel_deliveries, cancel_intents};
use crate::id::{ClientId, ProjectId, Seq, UserId};

/// Nobody has seen what is not there yet, whatever a client says that counts by the sequence of before a restore.
const UPSERT_CURSOR: &str = "
    INSERT INTO device_cursors (user_id, client, project, acked, seen, active, last_seen)
    VALUES ($1, $2, $3, $4, CASE WHEN $5 THEN COALESCE((SELECT CASE WHEN head_seq < $4 THEN head_seq ELSE $4 END
        FROM sync_head WHERE project = $3), 0) ELSE 0 END, $5, $6)
    ON CONFLICT (user_id, client, project) DO UPDATE SET
        acked = CASE WHEN excluded.acked > device_cursors.acked
                THEN excluded.acked ELSE device_cursors.acked END,
        seen = CASE WHEN excluded.seen > device_cursors.seen
                THEN excluded.seen ELSE device_cursors.seen END,
        active = excluded.active, last_seen = excluded.last_seen";

const CANCEL_INTENTS: &str = cancel_intents!(
    "acknowledged",
    "project = $1 AND user_id = $2 AND evt_seq <= $3 AND state = 'waiting'"
);

const CANCEL_DELIVERIES: &str =
    cancel_deliveries!("acknowledged", "project = $1 AND user_id = $2 AND evt_seq <= $3");

const CANCEL_OF_DEVICE: &str = cancel_deliveries!(
    "acknowledged",
    "project = $1 AND user_id = $2 AND evt_seq <= $3
      AND token_id IN (SELECT id FROM push_tokens WHERE user_id = $2 AND client = $4)"
);

impl Store {
    /// Records that an installation, seen at `now_ms`, has stored everything up to `seq`; what it acknowledged only
    /// rises. If it is `active`, a person has seen it: the user's pushes up to there are canceled
    /// unless a worker already sends them. If not, only this installation is spared. A position beyond the head
    /// says nothing: the store was restored from a backup since, and of what is there now nobody can tell what
    /// was seen. Returns what was canceled, to be counted ([`Store::count_canceled`]).
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
    ) -> Result<Canceled, StoreError> {
        self.acknowledge(project, user, Some(client), seq, active, now_ms).await
    }

    /// The same for a person who has seen it on an installation without a name: nothing is kept of that.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn ack_unnamed(
        &self,
        project: &ProjectId,
        user: &UserId,
        seq: Seq,
        now_ms: i64,
    ) -> Result<Canceled, StoreError> {
        self.acknowledge(project, user, None, seq, true, now_ms).await
    }

    async fn acknowledge(
        &self,
        project: &ProjectId,
        user: &UserId,
        client: Option<&ClientId>,
        seq: Seq,
        active: bool,
        now_ms: i64,
    ) -> Result<Canceled, StoreError> {
        let heads = self.heads(std::slice::from_ref(project)).await?;
        if heads.first().is_none_or(|(.., head)| seq > *head) {
            return Ok(Canceled::default());
        }
        let (dialect, seq) = (self.dialect(), value::from_seq(seq));
        let client = client.map(ClientId::as_str);
        let counts = in_transaction!(self, |tx| {
            if let Some(client) = client {
                sqlx::query(dialect.sql(UPSERT_CURSOR))
                    .bind(user.as_str())
                    .bind(client)
                    .bind(project.as_str())
                    .bind(seq)
                    .bind(active)
                    .bind(now_ms)
                    .execute(&mut *tx)
                    .await?;
            }
            let (p, u) = (project.as_str(), user.as_str());
            let mut counts = Counts::default();
            if active {
                for text in [CANCEL_INTENTS, CANCEL_DELIVERIES] {
                    let query = sqlx::query_as(dialect.sql(text)).bind(p).bind(u).bind(seq);
                    cancel!(tx, counts, query);
                }
            } else {
                let query = sqlx::query_as(dialect.sql(CANCEL_OF_DEVICE)).bind(p).bind(u).bind(seq);
                cancel!(tx, counts, query.bind(client));
            }
            counts
        });
        Ok(Canceled { counts })
    }
}
