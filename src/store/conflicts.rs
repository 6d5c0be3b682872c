//! Reading the conflict log.

use super::{Parked, Store, StoreError, value};
use crate::id::{ConflictId, ProjectId};
use crate::protocol::conflict::{Conflict, ConflictState};
use crate::protocol::op::{Fields, Outcome};

/// A row of `conflict_log`.
#[derive(sqlx::FromRow)]
pub(super) struct StoredConflict {
    project: String,
    id: String,
    user_id: String,
    client: String,
    op_id: String,
    r#type: String,
    entity_id: String,
    kind: String,
    op_kind: String,
    strategy: String,
    outcome: String,
    state: String,
    base: i64,
    server_version: i64,
    fields: String,
    op: Option<String>,
    created_at: i64,
    resolved_at: Option<i64>,
    resolved_by: Option<String>,
}

impl StoredConflict {
    /// The entry, after its project.
    pub(super) fn read(self) -> Result<(String, Parked), StoreError> {
        let conflict = Conflict {
            id: value::name(&self.id)?,
            kind: value::word(&self.kind)?,
            state: value::word(&self.state)?,
            outcome: value::word(&self.outcome)?,
            strategy: value::word(&self.strategy)?,
            entity: value::entity_key(&self.r#type, &self.entity_id)?,
            op_id: value::name(&self.op_id)?,
            op_kind: value::word(&self.op_kind)?,
            user: self.user_id,
            client: self.client,
            base: value::seq(self.base),
            server_version: value::seq(self.server_version),
            fields: value::json(&self.fields)?,
            created_at: self.created_at,
            resolved_at: self.resolved_at,
            resolved_by: self.resolved_by.as_deref().map(value::name).transpose()?,
        };
        let op = self.op.as_deref().map(value::json).transpose()?;
        Ok((self.project, Parked { conflict, op }))
    }
}

/// An entry beside its entity as it is now.
#[derive(sqlx::FromRow)]
struct EntryAndEntity {
    #[sqlx(flatten)]
    entry: StoredConflict,
    entity_version: Option<i64>,
    entity_data: Option<String>,
    /// How many there are, sent or not.
    present: i64,
}

impl EntryAndEntity {
    /// The entry; an open one with the server's side as it is now, so that it is decided on that.
    fn read(self) -> Result<Conflict, StoreError> {
        let (_, Parked { mut conflict, .. }) = self.entry.read()?;
        if conflict.state == ConflictState::Open {
            conflict.server_version = value::seq(self.entity_version.unwrap_or(0));
            let data = self.entity_data.as_deref().unwrap_or("{}");
            let mut data: Fields = value::json(data)?;
            for field in &mut conflict.fields {
                field.server = data.remove(&field.name);
            }
        }
        Ok(conflict)
    }
}

/// Which entries of a project's conflict log are wanted; the newest come first.
#[derive(Debug, Clone, Default)]
pub struct ConflictQuery {
    /// This user's.
    pub user: Option<String>,
    /// In this state.
    pub state: Option<ConflictState>,
    /// That ended so.
    pub outcome: Option<Outcome>,
    /// About this type of entity.
    pub kind: Option<String>,
    /// About this entity of the type.
    pub id: Option<String>,
    /// Older than this entry.
    pub before: Option<ConflictId>,
    /// How many at most.
    pub limit: u32,
    /// About how many bytes of values at most, beyond those of the first.
    pub bytes: usize,
}

/// Some entries of the conflict log, the newest first.
#[derive(Debug)]
pub struct ConflictPage {
    /// The entries.
    pub conflicts: Vec<Conflict>,
    /// The last of them, if older ones may follow.
    pub next: Option<ConflictId>,
}

/// Lengths alone are added up, so that what does not fit is not read. `$which` chooses the index, between user and
/// entity; the other filters are the same.
macro_rules! list {
    ($which:literal) => {
        concat!(
            "SELECT c.project, c.id, c.user_id, c.client, c.op_id, c.type, c.entity_id, c.kind, c.op_kind,
                 c.strategy, c.outcome, c.state, c.base, c.server_version, c.fields, NULL AS op,
                 c.created_at, c.resolved_at, c.resolved_by, w.present, e.version AS entity_version,
                 CASE WHEN e.deleted_at IS NULL THEN e.data END AS entity_data
             FROM (
                 SELECT p.*, COUNT(*) OVER () AS present,
                        SUM(bytes) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
                 FROM (
                     SELECT c.id, octet_length(c.fields) + COALESCE(octet_length(e.data), 0) AS bytes
                     FROM conflict_log c
                     LEFT JOIN entities e ON c.state = 'open'
                         AND e.project = c.project AND e.type = c.type AND e.id = c.entity_id
                     WHERE c.project = $1 AND ",
            $which,
            " AND (CAST($3 AS TEXT) IS NULL OR c.state = $3)
                      AND (CAST($4 AS TEXT) IS NULL OR c.outcome = $4)
                      AND (CAST($5 AS TEXT) IS NULL OR c.type = $5)
                      AND (CAST($6 AS TEXT) IS NULL OR c.entity_id = $6)
                      AND (CAST($7 AS TEXT) IS NULL OR c.id < $7)
                     ORDER BY c.id DESC LIMIT $8
                 ) p
             ) w
             JOIN conflict_log c ON c.project = $1 AND c.id = w.id
             LEFT JOIN entities e ON c.state = 'open'
                 AND e.project = c.project AND e.type = c.type AND e.id = c.entity_id
             WHERE w.bytes_before < $9
             ORDER BY c.id DESC"
        )
    };
}

impl Store {
    /// Entries of a project's conflict log, the newest first. An open entry's server side is the entity
    /// as it is now.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn conflicts(
        &self,
        project: &ProjectId,
        query: &ConflictQuery,
    ) -> Result<ConflictPage, StoreError> {
        let sql = match query {
            ConflictQuery { user: Some(_), .. } => list!("c.user_id = $2"),
            ConflictQuery { kind: Some(_), id: Some(_), .. } => {
                list!("CAST($2 AS TEXT) IS NULL AND c.type = $5 AND c.entity_id = $6")
            }
            _ => list!("CAST($2 AS TEXT) IS NULL"),
        };
        let rows: Vec<EntryAndEntity> = on_reader!(self, |db| {
            sqlx::query_as(sql)
                .bind(project.as_str())
                .bind(query.user.as_deref())
                .bind(query.state.as_ref().map(value::from_word))
                .bind(query.outcome.map(Outcome::as_str))
                .bind(query.kind.as_deref())
                .bind(query.id.as_deref())
                .bind(query.before.map(|id| id.to_string()))
                .bind(i64::from(query.limit))
                .bind(i64::try_from(query.bytes.max(1)).unwrap_or(i64::MAX))
                .fetch_all(db)
                .await
        })?;
        let present = rows.first().map_or(0, |row| row.present);
        let sent = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let more = sent < present || present >= i64::from(query.limit);
        let conflicts: Vec<_> =
            rows.into_iter().map(EntryAndEntity::read).collect::<Result<_, _>>()?;
        let next = conflicts.last().filter(|_| more).map(|conflict| conflict.id);
        Ok(ConflictPage { conflicts, next })
    }

    /// The newest conflicts that were opened or resolved since a time, and are still, by project.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn conflicts_since(
        &self,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<(ProjectId, Vec<ConflictId>)>, StoreError> {
        const SINCE: &str = "
            SELECT project, id FROM (
                SELECT project, id FROM conflict_log WHERE state = 'open' AND created_at >= $1
                UNION ALL
                SELECT project, id FROM conflict_log WHERE resolved_at IS NOT NULL AND resolved_at >= $1
                ORDER BY id DESC LIMIT $2
            ) newest ORDER BY project, id";
        let rows: Vec<(String, String)> = on_reader!(self, |db| {
            let query = sqlx::query_as(SINCE).bind(since_ms).bind(i64::from(limit));
            query.fetch_all(db).await
        })?;
        let of_one =
            |(project, _): &(String, String), (next, _): &(String, String)| project == next;
        let ids = |rows: &[(String, String)]| {
            let ids = rows.iter().map(|(_, id)| value::name(id)).collect::<Result<_, _>>()?;
            Ok((value::name(&rows[0].0)?, ids))
        };
        rows.chunk_by(of_one).map(ids).collect()
    }

    /// These conflicts; not those that are purged.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn conflicts_by_id(
        &self,
        project: &ProjectId,
        ids: &[ConflictId],
    ) -> Result<Vec<Conflict>, StoreError> {
        const THESE: &str = "
            SELECT c.* FROM ROWS($1) k CROSS JOIN conflict_log c
            WHERE c.project = $2 AND c.id = k.value->>0 ORDER BY c.id";
        let ids: Vec<_> = ids.iter().map(|id| [id]).collect();
        let these = self.dialect().sql(THESE);
        let rows: Vec<StoredConflict> = on_reader!(self, |db| {
            let query = sqlx::query_as(these).bind(value::json_text(&ids)).bind(project.as_str());
            query.fetch_all(db).await
        })?;
        rows.into_iter().map(|row| Ok(row.read()?.1.conflict)).collect()
    }
}
