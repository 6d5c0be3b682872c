//! The latest state of what changed after a position: compacted, in the order of versions.
//!
//! An entity that changes while pages are read moves ahead of the reader, so a later page has it, and
//! the last page's head is of the same snapshot as its rows: nothing falls between. Who wants only some
//! entities reads [`Store::delta_keys`] first, which touches the index alone, and then fetches the rows.

use serde_json::value::RawValue;

use super::{Inner, Store, StoreError, value};
use crate::id::{EntityKey, Epoch, ProjectId, Seq};

/// One statement, so that the head and the entities are of one snapshot; see `log::PAGE` for the bytes.
/// A tombstone keeps the last state for the hub; it is nobody else's. `$wanted` chooses the entities of
/// project `$1`.
macro_rules! page {
    ($wanted:literal) => {
        concat!(
            "SELECT h.epoch, h.head_seq, h.tombstone_floor,
                   e.type, e.id, e.version, e.deleted, e.data, e.present
            FROM sync_head h
            LEFT JOIN (
                SELECT p.*, COUNT(*) OVER () AS present,
                       SUM(bytes) OVER (ORDER BY version ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
                FROM (
                    SELECT type, id, version, deleted_at IS NOT NULL AS deleted,
                           CASE WHEN deleted_at IS NULL THEN data ELSE '{}' END AS data,
                           CASE WHEN deleted_at IS NULL THEN octet_length(data) ELSE 2 END AS bytes
                    FROM entities WHERE project = $1 AND ",
            $wanted,
            "   ) p
            ) e ON e.bytes_before < $3
            WHERE h.project = $1
            ORDER BY e.version"
        )
    };
}

const AFTER: &str = page!("version > $2 ORDER BY version LIMIT $4");
const THESE_SQLITE: &str = page!("version IN (SELECT value FROM json_each($2)) LIMIT $4");
const THESE_POSTGRES: &str = page!("version = ANY($2) LIMIT $4");

const KEYS: &str = "
    SELECT h.epoch, h.head_seq, h.tombstone_floor, e.type, e.id, e.version
    FROM sync_head h
    LEFT JOIN (
        SELECT type, id, version FROM entities
        WHERE project = $1 AND version > $2 ORDER BY version LIMIT $3
    ) e ON TRUE
    WHERE h.project = $1
    ORDER BY e.version";

/// The latest state of an entity, its fields as they are stored.
#[derive(Debug, Clone)]
pub struct DeltaRow {
    /// The entity.
    pub key: EntityKey,
    /// The position of its last change.
    pub version: Seq,
    /// Whether it was deleted.
    pub deleted: bool,
    /// All its fields, a JSON object; empty if deleted.
    pub fields: Box<RawValue>,
}

/// Where a project's sequence stands, read in one snapshot with `rows`.
#[derive(Debug, Clone)]
pub struct DeltaPage<T> {
    /// In the order of versions.
    pub rows: Vec<T>,
    /// Whether `max_bytes` kept back rows that are there.
    pub cut: bool,
    /// The position of the project's last change.
    pub head: Seq,
    /// The identity of the sequence.
    pub epoch: Epoch,
    /// Tombstones up to and including this version are gone: an older cursor cannot learn of deletes.
    pub tombstone_floor: Seq,
}

#[derive(sqlx::FromRow)]
struct HeadOf {
    epoch: String,
    head_seq: i64,
    tombstone_floor: i64,
}

impl HeadOf {
    fn page<T>(&self, rows: Vec<T>, cut: bool) -> Result<DeltaPage<T>, StoreError> {
        Ok(DeltaPage {
            rows,
            cut,
            head: value::seq(self.head_seq),
            epoch: value::epoch(&self.epoch)?,
            tombstone_floor: value::seq(self.tombstone_floor),
        })
    }
}

#[derive(sqlx::FromRow)]
struct PageRow {
    #[sqlx(flatten)]
    head: HeadOf,
    r#type: Option<String>,
    id: Option<String>,
    version: Option<i64>,
    deleted: Option<bool>,
    data: Option<String>,
    /// How many there are, sent or not.
    present: Option<i64>,
}

impl PageRow {
    /// The entity, if the page has any.
    fn read(self) -> Option<Result<DeltaRow, StoreError>> {
        let (kind, id, version, data) = (self.r#type?, self.id?, self.version?, self.data?);
        let row = || {
            Ok(DeltaRow {
                key: value::entity_key(&kind, &id)?,
                version: value::seq(version),
                deleted: self.deleted.unwrap_or_default(),
                fields: value::raw_json(data)?,
            })
        };
        Some(row())
    }
}

#[derive(sqlx::FromRow)]
struct KeyRow {
    #[sqlx(flatten)]
    head: HeadOf,
    r#type: Option<String>,
    id: Option<String>,
    version: Option<i64>,
}

impl Store {
    /// The latest state of every entity that changed after a position, at most `limit` of them and,
    /// beyond the first, at most about `max_bytes` of their data. Begins the project's sequence if
    /// there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delta(
        &self,
        project: &ProjectId,
        after: Seq,
        limit: u32,
        max_bytes: u64,
    ) -> Result<DeltaPage<DeltaRow>, StoreError> {
        let mut rows: Vec<PageRow> = Vec::new();
        for _ in 0..2 {
            rows = on_reader!(self, |db| sqlx::query_as(AFTER)
                .bind(project.as_str())
                .bind(value::from_seq(after))
                .bind(bytes(max_bytes))
                .bind(i64::from(limit.max(1)))
                .fetch_all(db)
                .await)?;
            if !rows.is_empty() {
                break;
            }
            self.open_project(project).await?;
        }
        read(rows)
    }

    /// The entities that have these versions still; those that moved on are left out. At most about
    /// `max_bytes` of their data beyond the first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delta_rows(
        &self,
        project: &ProjectId,
        versions: &[Seq],
        max_bytes: u64,
    ) -> Result<DeltaPage<DeltaRow>, StoreError> {
        let limit = i64::try_from(versions.len()).unwrap_or(i64::MAX);
        let versions: Vec<i64> = versions.iter().map(|seq| value::from_seq(*seq)).collect();
        let rows: Vec<PageRow> = match &self.inner {
            Inner::Sqlite { readers, .. } => {
                sqlx::query_as(THESE_SQLITE)
                    .bind(project.as_str())
                    .bind(value::json_text(&versions))
                    .bind(bytes(max_bytes))
                    .bind(limit)
                    .fetch_all(readers)
                    .await?
            }
            Inner::Postgres(pool) => {
                sqlx::query_as(THESE_POSTGRES)
                    .bind(project.as_str())
                    .bind(versions)
                    .bind(bytes(max_bytes))
                    .bind(limit)
                    .fetch_all(pool)
                    .await?
            }
        };
        read(rows)
    }

    /// Which entities changed after a position, at most `limit` of them, and their versions: read from
    /// the index alone. Begins the project's sequence if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delta_keys(
        &self,
        project: &ProjectId,
        after: Seq,
        limit: u32,
    ) -> Result<DeltaPage<(EntityKey, Seq)>, StoreError> {
        let mut rows: Vec<KeyRow> = Vec::new();
        for _ in 0..2 {
            rows = on_reader!(self, |db| sqlx::query_as(KEYS)
                .bind(project.as_str())
                .bind(value::from_seq(after))
                .bind(i64::from(limit.max(1)))
                .fetch_all(db)
                .await)?;
            if !rows.is_empty() {
                break;
            }
            self.open_project(project).await?;
        }
        let head = rows.first().ok_or_else(StoreError::vanished)?.head.page(Vec::new(), false)?;
        let keys = rows.into_iter().filter_map(|row| {
            let (kind, id, version) = (row.r#type?, row.id?, row.version?);
            Some(value::entity_key(&kind, &id).map(|key| (key, value::seq(version))))
        });
        Ok(DeltaPage { rows: keys.collect::<Result<_, _>>()?, ..head })
    }
}

fn bytes(max: u64) -> i64 {
    i64::try_from(max.max(1)).unwrap_or(i64::MAX)
}

fn read(rows: Vec<PageRow>) -> Result<DeltaPage<DeltaRow>, StoreError> {
    let first = rows.first().ok_or_else(StoreError::vanished)?;
    let present = first.present.unwrap_or_default();
    let cut = usize::try_from(present).is_ok_and(|present| rows.len() < present);
    let head = first.head.page(Vec::new(), cut)?;
    let rows = rows.into_iter().filter_map(PageRow::read).collect::<Result<_, _>>()?;
    Ok(DeltaPage { rows, ..head })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// How PostgreSQL reads a piece is tested by what it touches.
    #[tokio::test]
    async fn sqlite_reads_a_piece_from_the_index_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("hub.db").display());
        let store = Store::open(&config::Store { url, ..Default::default() }).await.unwrap();
        store.migrate().await.unwrap();
        let Inner::Sqlite { readers, .. } = &store.inner else { unreachable!() };
        for statement in [AFTER, KEYS] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(explain).fetch_all(readers).await.unwrap();
            let steps: Vec<_> = plan.into_iter().map(|(.., step)| step).collect();
            let index = "INDEX entities_in_order (project=? AND version>?)";
            assert!(steps.iter().any(|step| step.contains(index)), "{steps:#?}");
            // Nothing else of any size is read: not the table as a whole, and not the log.
            let tables = |step: &&String| step.contains("entities") || step.contains("changes");
            assert_eq!(steps.iter().filter(tables).count(), 1, "{steps:#?}");
        }
    }
}
