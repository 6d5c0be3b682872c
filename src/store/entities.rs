//! Reading entities: one, or everything that changed after a position, compacted.

use super::{EntityPage, EntityRow, Stamp, Stamps, Store, StoreError, value};
use crate::id::{EntityKey, ProjectId, Seq};
use crate::protocol::op::Fields;

/// One statement, so that the head and the entities are of one snapshot; see `log::PAGE` for the bytes.
const PAGE: &str = "
    SELECT h.epoch, h.head_seq, h.tombstone_floor,
           e.type, e.id, e.version, e.deleted, e.data, e.writer, e.stamps, e.source_versions
    FROM sync_head h
    LEFT JOIN (
        SELECT p.*, SUM(bytes) OVER (ORDER BY version ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
        FROM (
            SELECT *, deleted_at IS NOT NULL AS deleted, octet_length(data) AS bytes FROM entities
            WHERE project = $1 AND version > $2 ORDER BY version LIMIT $3
        ) p
    ) e ON e.bytes_before < $4
    WHERE h.project = $1
    ORDER BY e.version";

const ONE: &str = "
    SELECT type, id, version, deleted_at IS NOT NULL AS deleted, data, writer, stamps, source_versions
    FROM entities WHERE project = $1 AND type = $2 AND id = $3";

/// A row of `entities`.
#[derive(sqlx::FromRow)]
pub(super) struct StoredEntity {
    r#type: String,
    id: String,
    version: i64,
    deleted: bool,
    data: String,
    writer: String,
    stamps: String,
    source_versions: String,
}

impl StoredEntity {
    pub(super) fn read(self) -> Result<(EntityKey, EntityRow), StoreError> {
        let key = value::entity_key(&self.r#type, &self.id)?;
        let version = value::seq(self.version);
        let mut stamps: Stamps = value::json(&self.stamps)?;
        if stamps.newest() < version {
            // The latest change is of a binary that stamps no fields: each may be part of it.
            stamps = Stamps::whole(Stamp(version, self.writer.into(), "".into(), 0));
        }
        let (data, none) = (value::json(&self.data)?, Fields::new());
        let (fields, buried) = if self.deleted { (none, data) } else { (data, none) };
        let row = EntityRow {
            version,
            deleted: self.deleted,
            fields,
            buried,
            stamps,
            source_versions: value::json(&self.source_versions)?,
            bytes: self.data.len(),
        };
        Ok((key, row))
    }
}

#[derive(sqlx::FromRow)]
struct PageRow {
    epoch: String,
    head_seq: i64,
    tombstone_floor: i64,
    r#type: Option<String>,
    id: Option<String>,
    version: Option<i64>,
    deleted: Option<bool>,
    data: Option<String>,
    writer: Option<String>,
    stamps: Option<String>,
    source_versions: Option<String>,
}

impl PageRow {
    /// The entity, if the page has any.
    fn entity(self) -> Option<StoredEntity> {
        Some(StoredEntity {
            r#type: self.r#type?,
            id: self.id?,
            version: self.version?,
            deleted: self.deleted?,
            data: self.data?,
            writer: self.writer?,
            stamps: self.stamps?,
            source_versions: self.source_versions?,
        })
    }
}

impl Store {
    /// The latest state of every entity that changed after a position, at most `limit` of them and,
    /// beyond the first, at most about `max_bytes` of their data. An entity that changes while pages
    /// are read moves ahead of the reader, so a later page has it. Begins the project's sequence if
    /// there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn entities(
        &self,
        project: &ProjectId,
        after: Seq,
        limit: u32,
        max_bytes: u64,
    ) -> Result<EntityPage, StoreError> {
        let mut rows = self.entity_rows(project, after, limit, max_bytes).await?;
        if rows.is_empty() {
            self.open_project(project).await?;
            rows = self.entity_rows(project, after, limit, max_bytes).await?;
        }
        let first = rows.first().ok_or_else(StoreError::vanished)?;
        let (head, epoch) = (value::seq(first.head_seq), value::epoch(&first.epoch)?);
        let tombstone_floor = value::seq(first.tombstone_floor);
        let rows = rows
            .into_iter()
            .filter_map(PageRow::entity)
            .map(StoredEntity::read)
            .collect::<Result<Vec<_>, _>>()?;
        let more = rows.last().is_some_and(|(_, row)| row.version < head);
        Ok(EntityPage { rows, more, head, epoch, tombstone_floor })
    }

    async fn entity_rows(
        &self,
        project: &ProjectId,
        after: Seq,
        limit: u32,
        max_bytes: u64,
    ) -> Result<Vec<PageRow>, StoreError> {
        Ok(on_reader!(self, |db| {
            sqlx::query_as(PAGE)
                .bind(project.as_str())
                .bind(value::from_seq(after))
                .bind(i64::from(limit.max(1)))
                .bind(i64::try_from(max_bytes.max(1)).unwrap_or(i64::MAX))
                .fetch_all(db)
                .await
        })?)
    }

    /// One entity or its tombstone.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn entity(
        &self,
        project: &ProjectId,
        key: &EntityKey,
    ) -> Result<Option<EntityRow>, StoreError> {
        let row: Option<StoredEntity> = on_reader!(self, |db| sqlx::query_as(ONE)
            .bind(project.as_str())
            .bind(key.kind.as_str())
            .bind(key.id.as_str())
            .fetch_optional(db)
            .await)?;
        Ok(row.map(StoredEntity::read).transpose()?.map(|(_, row)| row))
    }
}
