//! What is kept of operations once they are decided, beside their verdicts.

use serde::Serialize;

use super::{PendingOp, Store, StoreError, value};
use crate::id::{OpId, ProjectId, Seq};
use crate::protocol::op::Outcome;

/// An operation as it was submitted and decided.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Submitted {
    /// The operation.
    #[serde(skip)]
    pub op_id: OpId,
    /// Who sent it.
    pub user: String,
    /// The version it was made on, 0 if that is none; nothing for a backend's, which is made on whatever is there.
    pub base: Option<Seq>,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was decided, in milliseconds since the Unix epoch.
    pub decided_at: i64,
}

/// As a column, the base of what acts on whatever is there; an older binary reads it as 0.
const ANY_BASE: i64 = -1;

/// The version an operation is made on, as a column. Who resolves a conflict decides on what they expect to find.
pub(super) fn base(pending: &PendingOp) -> i64 {
    let op = &pending.op;
    if pending.upsert { ANY_BASE } else { value::from_seq(op.expected_version.unwrap_or(op.base)) }
}

/// `op_id, user_id, base, outcome, at`
type Row = (String, String, i64, String, i64);

impl Store {
    /// What is kept of these operations.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn submitted(
        &self,
        project: &ProjectId,
        op_ids: &[OpId],
    ) -> Result<Vec<Submitted>, StoreError> {
        let rows: Vec<Row> = match &self.inner {
            super::Inner::Sqlite { readers, .. } => {
                sqlx::query_as(
                    "SELECT op_id, user_id, base, outcome, at FROM sync_queue
                     WHERE project = $1 AND op_id IN (SELECT value FROM json_each($2))",
                )
                .bind(project.as_str())
                .bind(value::json_text(&op_ids))
                .fetch_all(readers)
                .await?
            }
            super::Inner::Postgres(pool) => {
                sqlx::query_as(
                    "SELECT op_id, user_id, base, outcome, at FROM sync_queue
                     WHERE project = $1 AND op_id = ANY($2)",
                )
                .bind(project.as_str())
                .bind(op_ids.iter().map(OpId::as_str).collect::<Vec<_>>())
                .fetch_all(pool)
                .await?
            }
        };
        rows.into_iter()
            .map(|(op_id, user, base, outcome, decided_at)| {
                let (op_id, outcome) = (value::name(&op_id)?, value::word(&outcome)?);
                let base = (base != ANY_BASE).then(|| value::seq(base));
                Ok(Submitted { op_id, user, base, outcome, decided_at })
            })
            .collect()
    }
}
