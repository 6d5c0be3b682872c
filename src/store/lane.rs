//! The failed lane: operations that were rejected, kept as they were sent until they are tried again with
//! success or taken out.
//!
//! It is a part of `sync_queue`, whose rows are in it while they have a text (`op`). Its order is that of
//! the first rejections; a retry that fails changes nothing about it. `sync::retention` takes the oldest out
//! of the lane of a user who has too many.

use std::fmt;
use std::str::FromStr;

use serde_json::value::RawValue;

use super::lease::{Lease, renewed};
use super::{Inner, Store, StoreError, value};
use crate::id::{EntityType, OpId, ProjectId};
use crate::protocol::op::{Outcome, StoredVerdict};

/// Rows one statement takes out of the lane, so that no lock is held for long.
const CLEAR_AT_ONCE: i64 = 1000;

/// The last place taken in a project's lane.
pub(super) const LAST: &str = "
    SELECT COALESCE(lane, at * 4096) FROM sync_queue WHERE project = $1 AND op IS NOT NULL
    ORDER BY COALESCE(lane, at * 4096) DESC, op_id DESC LIMIT 1";

/// The first of the places for a commit. Places rise with time, and with each commit whatever the clocks of
/// the instances say.
pub(super) fn first_place(now_ms: i64, last: Option<i64>) -> i64 {
    now_ms.saturating_mul(4096).max(last.map_or(i64::MIN, |last| last.saturating_add(1)))
}

/// A place in the lane, to read on after.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(into = "String")]
pub struct LanePlace {
    place: i64,
    op_id: OpId,
}

impl fmt::Display for LanePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.place, self.op_id.as_str())
    }
}

impl LanePlace {
    /// The commit its operation was first rejected in, as far as places tell commits apart.
    #[must_use]
    pub fn commit(&self) -> i64 {
        self.place / 4096
    }
}

impl From<LanePlace> for String {
    fn from(place: LanePlace) -> Self {
        place.to_string()
    }
}

/// A text that is no place in the lane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`after` must be the `next` of an earlier answer")]
pub struct InvalidPlace;

impl FromStr for LanePlace {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let (place, op_id) = text.split_once(':').ok_or(InvalidPlace)?;
        let place = place.parse().map_err(|_| InvalidPlace)?;
        Ok(Self { place, op_id: OpId::new(op_id).map_err(|_| InvalidPlace)? })
    }
}

/// Which operations are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneQuery<'a> {
    /// This user's.
    pub user: Option<&'a str>,
    /// These, whether they are in the lane or not.
    pub op_ids: Option<&'a [OpId]>,
    /// Behind this place.
    pub after: Option<&'a LanePlace>,
    /// How many at most.
    pub limit: u32,
}

/// An operation with a verdict, and what it takes to decide it anew.
#[derive(Debug, Clone)]
pub struct LaneOp {
    /// The operation.
    pub op_id: OpId,
    /// Its place in the lane.
    pub place: LanePlace,
    /// Who sent it.
    pub user: String,
    /// From which installation.
    pub client: String,
    /// The role it was sent under; empty if an older binary stored it.
    pub role: String,
    /// Its text; none if it is not in the lane.
    pub op: Option<Box<RawValue>>,
    /// SHA-256 of it as it was sent.
    pub payload_hash: [u8; 32],
    /// When the edit was made, corrected by what the client's clock was off.
    pub edited_at: Option<i64>,
    /// How often it was decided.
    pub attempts: u32,
    /// When it was decided last, in milliseconds since the Unix epoch.
    pub at: i64,
    /// What became of it.
    pub outcome: Outcome,
    /// Its verdict.
    pub verdict: StoredVerdict,
}

/// The verdict of an operation that was tried again.
#[derive(Debug)]
pub struct Retried {
    /// The project.
    pub project: ProjectId,
    /// Who had sent it.
    pub user: String,
    /// The type of its entity.
    pub kind: EntityType,
    /// Its verdict.
    pub verdict: StoredVerdict,
}

#[derive(sqlx::FromRow)]
struct Row {
    op_id: String,
    place: i64,
    user_id: String,
    client: String,
    role: String,
    op: Option<String>,
    payload_hash: Vec<u8>,
    edited_at: Option<i64>,
    attempts: i32,
    at: i64,
    outcome: String,
    verdict: String,
}

impl Row {
    fn read(self) -> Result<LaneOp, StoreError> {
        let op_id: OpId = value::name(&self.op_id)?;
        let hash = self.payload_hash.try_into();
        Ok(LaneOp {
            place: LanePlace { place: self.place, op_id: op_id.clone() },
            op_id,
            user: self.user_id,
            client: self.client,
            role: self.role,
            op: self.op.map(value::raw_json).transpose()?,
            payload_hash: hash
                .map_err(|_| StoreError::unreadable("payload hash", &"not 32 bytes"))?,
            edited_at: self.edited_at,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            at: self.at,
            outcome: value::word(&self.outcome)?,
            verdict: value::raw_json(self.verdict)?,
        })
    }
}

/// `$which` chooses the index. `$3` and `$4` are the place to read on after; SQLite finds it in the index by
/// the first comparison only.
macro_rules! list {
    ($which:expr) => {
        concat!(
            "SELECT op_id, COALESCE(lane, at * 4096) AS place, user_id, client, role, op, payload_hash,
                 edited_at, attempts, at, outcome, verdict
             FROM sync_queue WHERE project = $1 AND ",
            $which,
            " AND COALESCE(lane, at * 4096) >= $3 AND (COALESCE(lane, at * 4096), op_id) > ($3, $4)
             ORDER BY COALESCE(lane, at * 4096), op_id LIMIT $5"
        )
    };
}

/// Takes some of a user's operations out, up to a place; `$which` may name some by a JSON list `$3`.
macro_rules! clear {
    ($which:expr) => {
        concat!(
            "UPDATE sync_queue SET op = NULL WHERE project = $1 AND op_id IN (
                 SELECT op_id FROM sync_queue
                 WHERE project = $1 AND user_id = $2 AND op IS NOT NULL
                     AND (CAST($3 AS TEXT) IS NULL OR ",
            $which,
            ") AND COALESCE(lane, at * 4096) <= $4 LIMIT $5)"
        )
    };
}

/// The lock every commit takes first: without it a retry and whoever takes operations out could wait for each
/// other.
const LOCK: &str = "UPDATE sync_head SET head_seq = head_seq WHERE project = $1";

/// The users with more than `$1` operations in a project, behind `$2` and `$3`, and the place of the first that
/// the newest `$1` leave no room for.
const CROWDED: &str = "
    SELECT c.project, c.user_id, (
        SELECT COALESCE(q.lane, q.at * 4096) FROM sync_queue q
        WHERE q.project = c.project AND q.user_id = c.user_id AND q.op IS NOT NULL
        ORDER BY COALESCE(q.lane, q.at * 4096) DESC, q.op_id DESC LIMIT 1 OFFSET $1)
    FROM (
        SELECT project, user_id FROM sync_queue
        WHERE op IS NOT NULL AND (project, user_id) > ($2, $3)
        GROUP BY project, user_id HAVING COUNT(*) > $1 ORDER BY project, user_id LIMIT $4
    ) c ORDER BY c.project, c.user_id";
const COUNT_CROWD: &str = "
    SELECT CAST(COALESCE(SUM(c.n - $1), 0) AS BIGINT) FROM (
        SELECT COUNT(*) AS n FROM sync_queue WHERE op IS NOT NULL
        GROUP BY project, user_id HAVING COUNT(*) > $1
    ) c";

/// A user's lane of a project that holds more than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrowdedLane {
    /// The project.
    pub project: ProjectId,
    /// The user.
    pub user: String,
    /// Everything up to this place has to go.
    upto: i64,
}

impl Store {
    /// Operations of the failed lane, the oldest first; with `op_ids` those, also if they are not in it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn failed(
        &self,
        project: &ProjectId,
        query: &LaneQuery<'_>,
    ) -> Result<Vec<LaneOp>, StoreError> {
        let sqlite = matches!(self.inner, Inner::Sqlite { .. });
        let sql = match (query.op_ids, query.user) {
            (None, Some(_)) => list!("user_id = $2 AND op IS NOT NULL"),
            (None, None) => list!("CAST($2 AS TEXT) IS NULL AND op IS NOT NULL"),
            (Some(_), _) if sqlite => list!(
                "(CAST($2 AS TEXT) IS NULL OR user_id = $2)
                 AND op_id IN (SELECT value FROM json_each($6))"
            ),
            (Some(_), _) => list!(
                "(CAST($2 AS TEXT) IS NULL OR user_id = $2)
                 AND op_id IN (SELECT json_array_elements_text(CAST($6 AS JSON)))"
            ),
        };
        let (place, op_id) = query.after.map_or((i64::MIN, ""), |a| (a.place, a.op_id.as_str()));
        let rows: Vec<Row> = on_reader!(self, |db| {
            let list = sqlx::query_as(sql)
                .bind(project.as_str())
                .bind(query.user)
                .bind(place)
                .bind(op_id)
                .bind(i64::from(query.limit));
            match query.op_ids {
                Some(op_ids) => list.bind(value::json_text(&op_ids)).fetch_all(db).await,
                None => list.fetch_all(db).await,
            }
        })?;
        rows.into_iter().map(Row::read).collect()
    }

    /// The newest verdicts that operations were given since a time when they were tried again.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn retried_since(
        &self,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Retried>, StoreError> {
        const SINCE: &str = "
            SELECT project, user_id, type, verdict FROM sync_queue
            WHERE attempts > 1 AND at >= $1 ORDER BY at DESC LIMIT $2";
        let rows: Vec<(String, String, String, String)> = on_reader!(self, |db| {
            sqlx::query_as(SINCE).bind(since_ms).bind(i64::from(limit)).fetch_all(db).await
        })?;
        let retried = |(project, user, kind, verdict): (String, String, String, String)| {
            let (project, kind) = (value::name(&project)?, value::name(&kind)?);
            Ok(Retried { project, user, kind, verdict: value::raw_json(verdict)? })
        };
        rows.into_iter().map(retried).collect()
    }

    /// Takes a user's operations, all or the named ones, out of the failed lane: they cannot be tried
    /// again, their verdicts stay. Returns how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn clear_failed(
        &self,
        project: &ProjectId,
        user: &str,
        op_ids: Option<&[OpId]>,
    ) -> Result<u64, StoreError> {
        let sql = self.clear();
        // What fails from now on is not meant.
        let last: Option<i64> = on_reader!(self, |db| {
            sqlx::query_scalar(LAST).bind(project.as_str()).fetch_optional(db).await
        })?;
        let Some(last) = last else { return Ok(0) };
        let named = op_ids.map(|op_ids| value::json_text(&op_ids));
        let mut cleared = 0;
        loop {
            let now = in_transaction!(self, |tx| {
                sqlx::query(LOCK).bind(project.as_str()).execute(&mut *tx).await?;
                sqlx::query(sql)
                    .bind(project.as_str())
                    .bind(user)
                    .bind(named.as_deref())
                    .bind(last)
                    .bind(CLEAR_AT_ONCE)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected()
            });
            cleared += now;
            if now == 0 {
                return Ok(cleared);
            }
        }
    }

    fn clear(&self) -> &'static str {
        match &self.inner {
            Inner::Sqlite { .. } => clear!("op_id IN (SELECT value FROM json_each($3))"),
            Inner::Postgres(_) => {
                clear!("op_id IN (SELECT json_array_elements_text(CAST($3 AS JSON)))")
            }
        }
    }

    /// The next users' lanes behind `after` that hold more than `most` operations of a project.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn crowded_lanes(
        &self,
        most: u32,
        after: Option<&CrowdedLane>,
        limit: u32,
    ) -> Result<Vec<CrowdedLane>, StoreError> {
        let (project, user) = after.map_or(("", ""), |a| (a.project.as_str(), a.user.as_str()));
        let rows: Vec<(String, String, Option<i64>)> = on_reader!(self, |db| {
            sqlx::query_as(CROWDED)
                .bind(i64::from(most))
                .bind(project)
                .bind(user)
                .bind(i64::from(limit))
                .fetch_all(db)
                .await
        })?;
        let lane = |(project, user, upto): (String, String, Option<i64>)| {
            let project = value::name(&project)?;
            Ok(CrowdedLane { project, user, upto: upto.unwrap_or(i64::MIN) })
        };
        rows.into_iter().map(lane).collect()
    }

    /// Takes up to `batch` of the oldest operations out of a lane that holds too many; their verdicts stay.
    /// Returns how many, none if the lease is lost.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn trim_lane(
        &self,
        lease: &Lease,
        lane: &CrowdedLane,
        batch: u32,
    ) -> Result<Option<u64>, StoreError> {
        let all: Option<&str> = None;
        let trimmed = in_transaction!(self, |tx| {
            let Some(_now) = renewed!(self, tx, lease) else { return Ok(None) };
            sqlx::query(LOCK).bind(lane.project.as_str()).execute(&mut *tx).await?;
            let done = sqlx::query(self.clear())
                .bind(lane.project.as_str())
                .bind(&lane.user)
                .bind(all)
                .bind(lane.upto)
                .bind(i64::from(batch))
                .execute(&mut *tx)
                .await?;
            Some(done.rows_affected())
        });
        Ok(trimmed)
    }

    /// How many operations [`Store::trim_lane`] would take out of all lanes in the end.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn count_crowd(&self, most: u32) -> Result<u64, StoreError> {
        let count: i64 = on_reader!(self, |db| {
            sqlx::query_scalar(COUNT_CROWD).bind(i64::from(most)).fetch_one(db).await
        })?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_and_strangers_texts_do_not() {
        let place = LanePlace { place: first_place(1000, None), op_id: "a-1".parse().unwrap() };
        assert_eq!(place.to_string().parse(), Ok(place));
        for text in ["", "7", "7:", "x:a", "7:a:b", "99999999999999999999:a"] {
            assert_eq!(text.parse::<LanePlace>(), Err(InvalidPlace), "{text}");
        }
    }

    #[test]
    fn places_rise_with_time_and_with_each_commit() {
        let (first, later) = (first_place(1, None), first_place(2, Some(4096)));
        assert!(first < later);
        assert_eq!(first_place(1, Some(later)), later + 1, "a clock behind the others'");
    }
}
