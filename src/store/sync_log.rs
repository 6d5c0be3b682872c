//! The log of requests: who wrote how much, how it ended, how long it took.

use serde::Serialize;

use super::{Inner, Store, StoreError, value};
use crate::id::ProjectId;
use crate::protocol::op::Outcome;

/// One request that wrote.
#[derive(Debug, Clone, PartialEq, Serialize, sqlx::FromRow)]
pub struct SyncRecord {
    /// The project.
    pub project: String,
    /// A UUIDv7, so it sorts by time.
    pub id: String,
    /// `write` or `retry`.
    pub kind: String,
    /// Who sent it.
    #[serde(rename = "user")]
    #[sqlx(rename = "user_id")]
    pub user: String,
    /// From which installation.
    pub client: String,
    /// The device the token was issued to.
    pub device: Option<String>,
    /// Operations in it.
    pub ops: i64,
    /// Their bytes.
    pub bytes: i64,
    /// What became of them.
    #[serde(flatten)]
    #[sqlx(flatten)]
    pub outcomes: Outcomes,
    /// Milliseconds from its arrival to its answer.
    pub duration_ms: i64,
    /// `ok`, or the code of the error that was answered.
    pub result: String,
    /// When it arrived, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// How many operations ended how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Outcomes {
    /// As asked.
    pub applied: i64,
    /// With somebody else's edit.
    pub merged: i64,
    /// Without a change.
    pub noop: i64,
    /// Under somebody else's edit.
    pub superseded: i64,
    /// Parked.
    pub conflict: i64,
    /// Refused.
    pub rejected: i64,
    /// With their earlier verdict.
    pub replayed: i64,
}

impl Outcomes {
    /// Counts one.
    pub fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Applied => &mut self.applied,
            Outcome::Merged => &mut self.merged,
            Outcome::Noop => &mut self.noop,
            Outcome::Superseded => &mut self.superseded,
            Outcome::Conflict => &mut self.conflict,
            Outcome::Rejected => &mut self.rejected,
        } += 1;
    }
}

/// Which records of a project are wanted; the newest come first.
#[derive(Debug, Clone, Copy, Default)]
pub struct SyncLogQuery<'a> {
    /// This user's.
    pub user: Option<&'a str>,
    /// Older than this one.
    pub before: Option<&'a str>,
    /// How many at most.
    pub limit: u32,
}

macro_rules! list {
    ($of_user:literal) => {
        concat!(
            "SELECT * FROM sync_log WHERE project = $1 AND ",
            $of_user,
            " AND (CAST($3 AS TEXT) IS NULL OR id < $3) ORDER BY id DESC LIMIT $4"
        )
    };
}

impl Store {
    /// Adds records, in one statement. One that is there already is left alone.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn add_to_sync_log(&self, records: &[SyncRecord]) -> Result<(), StoreError> {
        let rows = value::json_text(&records);
        match &self.inner {
            Inner::Sqlite { writer, .. } => {
                sqlx::query(
                    "INSERT INTO sync_log (project, id, kind, user_id, client, device, ops, bytes,
                         applied, merged, noop, superseded, conflict, rejected, replayed,
                         duration_ms, result, at)
                     SELECT value->>'project', value->>'id', value->>'kind', value->>'user',
                         value->>'client', value->>'device', value->>'ops', value->>'bytes',
                         value->>'applied', value->>'merged', value->>'noop',
                         value->>'superseded', value->>'conflict', value->>'rejected',
                         value->>'replayed', value->>'duration_ms', value->>'result', value->>'at'
                     FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
                )
                .bind(rows)
                .execute(writer)
                .await?;
            }
            Inner::Postgres(pool) => {
                sqlx::query(
                    "INSERT INTO sync_log (project, id, kind, user_id, client, device, ops, bytes,
                         applied, merged, noop, superseded, conflict, rejected, replayed,
                         duration_ms, result, at)
                     SELECT r.* FROM json_to_recordset(CAST($1 AS JSON)) AS r (project TEXT, id TEXT,
                         kind TEXT, \"user\" TEXT, client TEXT, device TEXT, ops BIGINT,
                         bytes BIGINT, applied BIGINT, merged BIGINT, noop BIGINT,
                         superseded BIGINT, conflict BIGINT, rejected BIGINT, replayed BIGINT,
                         duration_ms BIGINT, result TEXT, at BIGINT)
                     ON CONFLICT DO NOTHING",
                )
                .bind(rows)
                .execute(pool)
                .await?;
            }
        }
        Ok(())
    }

    /// Records of a project, the newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn sync_log(
        &self,
        project: &ProjectId,
        query: SyncLogQuery<'_>,
    ) -> Result<Vec<SyncRecord>, StoreError> {
        let sql = match query.user {
            Some(_) => list!("user_id = $2"),
            None => list!("CAST($2 AS TEXT) IS NULL"),
        };
        Ok(on_reader!(self, |db| {
            sqlx::query_as(sql)
                .bind(project.as_str())
                .bind(query.user)
                .bind(query.before)
                .bind(i64::from(query.limit))
                .fetch_all(db)
                .await
        })?)
    }
}
