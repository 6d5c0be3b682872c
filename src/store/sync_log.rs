//! The log of requests: who wrote how much, how it ended, how long it took.

use serde::Serialize;
use serde_json::json;

use super::{Inner, Store, StoreError, commit::column, value};
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

macro_rules! insert {
    ($rows:literal) => {
        concat!(
            "INSERT INTO sync_log (project, id, kind, user_id, client, device, ops, bytes,
                 applied, merged, noop, superseded, conflict, rejected, replayed,
                 duration_ms, result, at) ",
            $rows,
            " ON CONFLICT DO NOTHING"
        )
    };
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
        match &self.inner {
            Inner::Sqlite { writer, .. } => {
                let row = |r: &SyncRecord| {
                    let o = &r.outcomes;
                    json!([
                        r.project,
                        r.id,
                        r.kind,
                        r.user,
                        r.client,
                        r.device,
                        r.ops,
                        r.bytes,
                        o.applied,
                        o.merged,
                        o.noop,
                        o.superseded,
                        o.conflict,
                        o.rejected,
                        o.replayed,
                        r.duration_ms,
                        r.result,
                        r.at,
                    ])
                };
                let rows: Vec<_> = records.iter().map(row).collect();
                sqlx::query(insert!(
                    "SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5,
                         value->>6, value->>7, value->>8, value->>9, value->>10, value->>11,
                         value->>12, value->>13, value->>14, value->>15, value->>16, value->>17
                     FROM jsonb_each($1) WHERE true"
                ))
                .bind(value::json_text(&rows))
                .execute(writer)
                .await?;
            }
            Inner::Postgres(pool) => {
                sqlx::query(insert!(
                    "SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
                         $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                         $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
                         $16::bigint[], $17::text[], $18::bigint[])"
                ))
                .bind(column(records, |r| r.project.as_str()))
                .bind(column(records, |r| r.id.as_str()))
                .bind(column(records, |r| r.kind.as_str()))
                .bind(column(records, |r| r.user.as_str()))
                .bind(column(records, |r| r.client.as_str()))
                .bind(column(records, |r| r.device.as_deref()))
                .bind(column(records, |r| r.ops))
                .bind(column(records, |r| r.bytes))
                .bind(column(records, |r| r.outcomes.applied))
                .bind(column(records, |r| r.outcomes.merged))
                .bind(column(records, |r| r.outcomes.noop))
                .bind(column(records, |r| r.outcomes.superseded))
                .bind(column(records, |r| r.outcomes.conflict))
                .bind(column(records, |r| r.outcomes.rejected))
                .bind(column(records, |r| r.outcomes.replayed))
                .bind(column(records, |r| r.duration_ms))
                .bind(column(records, |r| r.result.as_str()))
                .bind(column(records, |r| r.at))
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
