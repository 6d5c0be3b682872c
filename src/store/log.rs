//! Reading the log, and cutting off what is too old.

use super::{LogEntry, LogPage, Store, StoreError, value};
use crate::id::{ProjectId, Seq};

/// One statement, so that the head and the changes are of one snapshot. The last column of the inner
/// query is how many bytes of patches come before a change: a page ends where they reach the limit.
const PAGE: &str = "
    SELECT h.epoch, h.head_seq, h.log_floor,
           c.seq, c.type, c.id, c.kind, c.patch, c.prev, c.actor, c.client, c.op_id, c.at
    FROM sync_head h
    LEFT JOIN (
        SELECT p.*, SUM(bytes) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
        FROM (
            SELECT *, COALESCE(octet_length(patch), 0) AS bytes FROM changes
            WHERE project = $1 AND seq > $2 ORDER BY seq LIMIT $3
        ) p
    ) c ON c.bytes_before < $4
    WHERE h.project = $1
    ORDER BY c.seq";

#[derive(sqlx::FromRow)]
struct PageRow {
    epoch: String,
    head_seq: i64,
    log_floor: i64,
    #[sqlx(flatten)]
    change: MaybeChange,
}

/// A row of `changes`; all null if the page is empty.
#[derive(sqlx::FromRow)]
struct MaybeChange {
    seq: Option<i64>,
    r#type: Option<String>,
    id: Option<String>,
    kind: Option<String>,
    patch: Option<String>,
    prev: Option<i64>,
    actor: Option<String>,
    client: Option<String>,
    op_id: Option<String>,
    at: Option<i64>,
}

impl MaybeChange {
    fn entry(self) -> Result<Option<LogEntry>, StoreError> {
        let (Some(seq), Some(kind_of_entity), Some(id)) = (self.seq, self.r#type, self.id) else {
            return Ok(None);
        };
        Ok(Some(LogEntry {
            seq: value::seq(seq),
            entity: value::entity_key(&kind_of_entity, &id)?,
            kind: value::change_kind(&self.kind.unwrap_or_default())?,
            prev: value::seq(self.prev.unwrap_or_default()),
            fields: self.patch.map(value::raw_json).transpose()?,
            actor: self.actor.unwrap_or_default(),
            client: self.client.unwrap_or_default(),
            op_id: value::name(&self.op_id.unwrap_or_default())?,
            at: self.at.unwrap_or_default(),
        }))
    }
}

impl Store {
    /// The changes after a position, at most `limit` of them and, beyond the first, at most about
    /// `max_bytes` of their fields. Begins the project's sequence if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn page(
        &self,
        project: &ProjectId,
        after: Seq,
        limit: u32,
        max_bytes: u64,
    ) -> Result<LogPage, StoreError> {
        let mut rows = self.page_rows(project, after, limit, max_bytes).await?;
        if rows.is_empty() {
            self.open_project(project).await?;
            rows = self.page_rows(project, after, limit, max_bytes).await?;
        }
        let first = rows.first().ok_or_else(StoreError::vanished)?;
        let (head, floor) = (value::seq(first.head_seq), value::seq(first.log_floor));
        let epoch = value::epoch(&first.epoch)?;
        let entries = rows
            .into_iter()
            .filter_map(|row| row.change.entry().transpose())
            .collect::<Result<_, _>>()?;
        Ok(LogPage { entries, head, epoch, floor })
    }

    async fn page_rows(
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
                .bind(i64::from(limit))
                .bind(i64::try_from(max_bytes.max(1)).unwrap_or(i64::MAX))
                .fetch_all(db)
                .await
        })?)
    }
}
