//! Where each project's sequence stands: its identity, its last position, and how far back it reaches.

use super::{Head, Inner, Store, StoreError, value};
use crate::id::{Epoch, ProjectId, Seq};

/// `project, epoch, head_seq`
type HeadRow = (String, String, i64);

impl Store {
    /// Where a project stands; its sequence is begun, with a new epoch, if there is none yet.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open_project(&self, project: &ProjectId) -> Result<Head, StoreError> {
        const READ: &str = "SELECT epoch, head_seq, log_floor FROM sync_head WHERE project = $1";
        for _ in 0..2 {
            let row: Option<(String, i64, i64)> = on_reader!(self, |db| {
                sqlx::query_as(READ).bind(project.as_str()).fetch_optional(db).await
            })?;
            if let Some((epoch, head, floor)) = row {
                return Ok(Head {
                    epoch: value::epoch(&epoch)?,
                    head: value::seq(head),
                    floor: value::seq(floor),
                });
            }
            execute!(self, sqlx::query(BEGIN_SEQUENCE).bind(project.as_str()).bind(new_epoch()));
        }
        Err(StoreError::vanished())
    }

    /// Where several projects stand, in one query; those never written to nor opened are left out.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn heads(
        &self,
        projects: &[ProjectId],
    ) -> Result<Vec<(ProjectId, Epoch, Seq)>, StoreError> {
        let names: Vec<&str> = projects.iter().map(ProjectId::as_str).collect();
        let rows: Vec<HeadRow> = match &self.inner {
            Inner::Sqlite { readers, .. } => {
                sqlx::query_as(
                    "SELECT project, epoch, head_seq FROM sync_head
                     WHERE project IN (SELECT value FROM json_each($1))",
                )
                .bind(value::json_text(&names))
                .fetch_all(readers)
                .await?
            }
            Inner::Postgres(pool) => {
                sqlx::query_as(
                    "SELECT project, epoch, head_seq FROM sync_head WHERE project = ANY($1)",
                )
                .bind(names)
                .fetch_all(pool)
                .await?
            }
        };
        rows.iter()
            .map(|(project, epoch, head)| {
                Ok((value::name(project)?, value::epoch(epoch)?, value::seq(*head)))
            })
            .collect()
    }

    /// Gives a project's sequence another identity, so that every cursor into it is refused: for a
    /// store that was restored from a backup. It goes on 10¹² positions further. Whether there is such
    /// a sequence.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_epoch(&self, project: &ProjectId, epoch: Epoch) -> Result<bool, StoreError> {
        // Nobody reads the log across the positions that were lost; who wants to starts from the state.
        const SET: &str = "UPDATE sync_head SET epoch = $2, head_seq = head_seq + $3,
             log_floor = head_seq + $3 WHERE project = $1";
        // What devices have acknowledged of the sequence before says nothing of this one.
        const FORGET: &str = "DELETE FROM device_cursors WHERE project = $1";
        let set = in_transaction!(self, |tx| {
            let set = sqlx::query(SET).bind(project.as_str()).bind(epoch.to_string());
            let set = set.bind(LOST).execute(&mut *tx).await?.rows_affected();
            sqlx::query(FORGET).bind(project.as_str()).execute(&mut *tx).await?;
            set
        });
        Ok(set > 0)
    }

    /// The next projects behind `after` whose sequence has begun, by name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn projects(
        &self,
        after: Option<&ProjectId>,
        limit: u32,
    ) -> Result<Vec<ProjectId>, StoreError> {
        const LIST: &str =
            "SELECT project FROM sync_head WHERE project > $1 ORDER BY project LIMIT $2";
        let names: Vec<String> = on_reader!(self, |db| {
            sqlx::query_scalar(LIST)
                .bind(after.map_or("", ProjectId::as_str))
                .bind(i64::from(limit))
                .fetch_all(db)
                .await
        })?;
        names.iter().map(|name| value::name(name)).collect()
    }
}

/// Positions that a restored sequence leaves out: more than can have been given between the backup and its
/// restoration, so that no position stands for two changes. An edit whose base was lost with them is then older
/// than everything written since, and in conflict with it, and not taken for one that has seen it.
const LOST: i64 = 1_000_000_000_000;

/// Leaves a sequence that exists alone.
pub(super) const BEGIN_SEQUENCE: &str =
    "INSERT INTO sync_head (project, epoch, head_seq) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING";

/// The identity of a sequence about to begin.
pub(super) fn new_epoch() -> String {
    Epoch::random().to_string()
}
