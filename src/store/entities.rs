//! Reading one entity; what a project has of them is read by [`super::delta`].

use super::{EntityRow, Store, StoreError, value};
use crate::id::{EntityKey, ProjectId};

const ONE: &str = "
    SELECT type, id, version, deleted_at IS NOT NULL AS deleted, data, writer, writer_base,
           source_versions
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
    writer_base: i64,
    source_versions: String,
}

impl StoredEntity {
    pub(super) fn read(self) -> Result<(EntityKey, EntityRow), StoreError> {
        let key = value::entity_key(&self.r#type, &self.id)?;
        let row = EntityRow {
            version: value::seq(self.version),
            deleted: self.deleted,
            fields: value::json(&self.data)?,
            writer: self.writer,
            writer_base: value::seq(self.writer_base),
            source_versions: value::json(&self.source_versions)?,
        };
        Ok((key, row))
    }
}

impl Store {
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
