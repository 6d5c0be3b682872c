//! Acknowledgements: they cancel what no provider has yet.

use std::collections::{BTreeSet, HashMap};

use super::super::{Store, StoreError, value};
use super::cancel::{Canceled, Counts, cancel, cancel_deliveries, cancel_intents};
use crate::id::{ClientId, ProjectId, Seq, UserId};

/// How far a person has come in a project, on one installation. They are kept apart: what came after the app went to
/// the background nobody has seen, whatever was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The project.
    pub project: ProjectId,
    /// The person.
    pub user: UserId,
    /// The installation; all that have no name are one.
    pub client: Option<ClientId>,
    /// Acknowledged from the foreground: it counts for the user.
    pub seen: Option<Seq>,
    /// Acknowledged from the background: it counts for the device alone.
    pub stored: Option<Seq>,
}

/// The rows of the statements below: project, user, installation, what it has stored, what its user has seen, and
/// whether that is all of it.
type Row<'a> = (&'a str, &'a str, &'a str, i64, i64, i64);

const UPSERT_CURSORS: &str = "
    INSERT INTO device_cursors (project, user_id, client, acked, seen, active, last_seen)
    SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT),
        CAST(value->>5 AS BIGINT) = 1, $2
    FROM ROWS($1) WHERE true
    ON CONFLICT (user_id, client, project) DO UPDATE SET
        acked = CASE WHEN excluded.acked > device_cursors.acked
                THEN excluded.acked ELSE device_cursors.acked END,
        seen = CASE WHEN excluded.seen > device_cursors.seen
                THEN excluded.seen ELSE device_cursors.seen END,
        active = excluded.active, last_seen = excluded.last_seen";

/// The armed pushes of what people have seen. Like the two below it locks what it finds in one order: two devices of a
/// person acknowledge at once through two instances, and neither may wait for the other's.
const SEEN_INTENTS: &str = "
    SELECT i.id FROM (SELECT value->>0 AS project, value->>1 AS user_id, CAST(value->>4 AS BIGINT) AS seen
        FROM ROWS($1)) r
    JOIN push_intents i ON i.project = r.project AND i.user_id = r.user_id AND i.evt_seq <= r.seen
        AND i.state = 'waiting'
    ORDER BY i.id LOCK_ROWS";

/// The deliveries of what people have seen.
const SEEN_DELIVERIES: &str = "
    SELECT d.id FROM (SELECT value->>0 AS project, value->>1 AS user_id, CAST(value->>4 AS BIGINT) AS seen
        FROM ROWS($1)) r
    JOIN push_deliveries d ON d.project = r.project AND d.user_id = r.user_id AND d.evt_seq <= r.seen
        AND d.state IN ('queued', 'retry')
    ORDER BY d.id LOCK_ROWS";

/// The deliveries to devices of what these have stored.
const STORED_DELIVERIES: &str = "
    SELECT id FROM push_deliveries WHERE id IN (
        SELECT d.id FROM (SELECT value->>0 AS project, value->>1 AS user_id, value->>2 AS client,
            CAST(value->>3 AS BIGINT) AS acked FROM ROWS($1) WHERE CAST(value->>5 AS BIGINT) = 0) r
        JOIN push_tokens t ON t.user_id = r.user_id AND t.client = r.client
        JOIN push_deliveries d ON d.token_id = t.id AND d.project = r.project AND d.user_id = r.user_id
            AND d.evt_seq <= r.acked AND d.state IN ('queued', 'retry'))
    ORDER BY id LOCK_ROWS";

const CANCEL_INTENTS: &str = cancel_intents!(
    "acknowledged",
    "state = 'waiting' AND id IN (SELECT CAST(value->>0 AS BIGINT) FROM ROWS($1))"
);

const CANCEL_DELIVERIES: &str =
    cancel_deliveries!("acknowledged", "id IN (SELECT CAST(value->>0 AS BIGINT) FROM ROWS($1))");

impl Store {
    /// Records how far installations, heard of at `now_ms`, have come; that only rises. What a person has seen cancels
    /// the user's pushes up to there, unless a worker already sends them; what is only stored spares that
    /// installation. A position beyond the head says nothing: the store was restored from a backup since, and of
    /// what is there now nobody can tell what was seen. Returns what was canceled, to be counted
    /// ([`Store::count_canceled`]). No two may be of the same installation.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is recorded then.
    pub async fn acknowledge(&self, acks: &[Ack], now_ms: i64) -> Result<Canceled, StoreError> {
        let projects: BTreeSet<_> = acks.iter().map(|ack| ack.project.clone()).collect();
        let heads = self.heads(&projects.into_iter().collect::<Vec<_>>()).await?;
        let heads: HashMap<_, _> =
            heads.into_iter().map(|(project, _, head)| (project, head)).collect();
        let mut rows: Vec<_> =
            acks.iter().filter_map(|ack| row(ack, *heads.get(&ack.project)?)).collect();
        if rows.is_empty() {
            return Ok(Canceled::default());
        }
        rows.sort_unstable();
        let (dialect, rows) = (self.dialect(), value::json_text(&rows));
        let counts = in_transaction!(self, |tx| {
            let upsert = sqlx::query(dialect.sql(UPSERT_CURSORS)).bind(&rows).bind(now_ms);
            upsert.execute(&mut *tx).await?;
            let mut counts = Counts::default();
            for (which, cancel) in [
                (SEEN_INTENTS, CANCEL_INTENTS),
                (SEEN_DELIVERIES, CANCEL_DELIVERIES),
                (STORED_DELIVERIES, CANCEL_DELIVERIES),
            ] {
                let found = sqlx::query_as(dialect.sql(which)).bind(&rows);
                let found: Vec<(i64,)> = found.fetch_all(&mut *tx).await?;
                if !found.is_empty() {
                    let ids = value::json_text(&found);
                    cancel!(tx, counts, sqlx::query_as(dialect.sql(cancel)).bind(ids));
                }
            }
            counts
        });
        Ok(Canceled { counts })
    }
}

/// None if there is nothing to say of it.
fn row(ack: &Ack, head: Seq) -> Option<Row<'_>> {
    let there = |seq: Option<Seq>| seq.filter(|seq| *seq <= head);
    let (seen, stored) = (there(ack.seen), there(ack.stored));
    let acked = seen.max(stored)?;
    let client = ack.client.as_ref().map_or("", ClientId::as_str);
    let (acked, seen) = (value::from_seq(acked), seen.map_or(0, value::from_seq));
    Some((ack.project.as_str(), ack.user.as_str(), client, acked, seen, i64::from(acked == seen)))
}
