//! Reading one entity; what a project has of them is read by [`super::delta`].

use super::{EntityRow, Stamp, Stamps, Store, StoreError, value};
use crate::id::{EntityKey, ProjectId};
use crate::protocol::op::Fields;

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
