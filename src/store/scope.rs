//! Every living entity of a project by key and version, for its checksum.

use futures_util::TryStreamExt;
use sqlx::Connection as _;

use super::{Head, Inner, Store, StoreError, value};
use crate::id::{EntityKey, ProjectId, Seq};

/// Both statements of one snapshot; SQLite's transactions are that anyway.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

const HEAD: &str = "SELECT epoch, head_seq, log_floor FROM sync_head WHERE project = $1";

/// All its columns are in the index `entities_in_order`.
const LIVING: &str =
    "SELECT type, id, version FROM entities WHERE project = $1 AND deleted_at IS NULL";

/// Reads both on a connection in a snapshot, row by row.
macro_rules! scan {
    ($tx:expr, $project:expr, $each:expr) => {{
        let head: Option<(String, i64, i64)> =
            sqlx::query_as(HEAD).bind($project.as_str()).fetch_optional(&mut *$tx).await?;
        let mut rows = sqlx::query_as::<_, (String, String, i64)>(LIVING)
            .bind($project.as_str())
            .fetch(&mut *$tx);
        while let Some((kind, id, version)) = rows.try_next().await? {
            $each(value::entity_key(&kind, &id)?, value::seq(version));
        }
        head
    }};
}

impl Store {
    /// Calls `each` with every living entity of a project, in no order, and says where the project stood
    /// then. The rows are not gathered. None if the project's sequence has not begun.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn scan(
        &self,
        project: &ProjectId,
        mut each: impl FnMut(EntityKey, Seq) + Send,
    ) -> Result<Option<Head>, StoreError> {
        let head = match &self.inner {
            Inner::Sqlite { readers, .. } => {
                let mut connection = readers.acquire().await?;
                let mut tx = connection.begin().await?;
                scan!(tx, project, each)
            }
            Inner::Postgres(pool) => {
                let mut tx = pool.begin_with(SNAPSHOT).await?;
                scan!(tx, project, each)
            }
        };
        head.map(|(epoch, head, floor)| {
            let (head, floor) = (value::seq(head), value::seq(floor));
            Ok(Head { epoch: value::epoch(&epoch)?, head, floor })
        })
        .transpose()
    }
}
