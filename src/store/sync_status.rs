//! Where a user's, or everybody's, synchronisation stands, in a fixed number of queries for any number of
//! projects.

use std::collections::HashMap;

use serde::Serialize;

use super::{Inner, Store, StoreError, SyncRecord, value};
use crate::id::{Epoch, ProjectId, Seq};

/// Up to here things are counted.
pub const COUNTED: i64 = 10_000;
/// Devices of a project that are listed, those seen last.
const DEVICES: i64 = 100;

/// Where one project stands for a user, or for all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SyncStatus {
    /// The project.
    pub project: ProjectId,
    /// The identity of its sequence; absent if nothing was ever written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The position of its last change.
    pub head: Seq,
    /// Operations in the failed lane, counted up to [`COUNTED`].
    pub failed: i64,
    /// When the oldest of them was first rejected, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_failed: Option<i64>,
    /// Conflicts that wait for a decision, counted up to [`COUNTED`].
    pub open_conflicts: i64,
    /// The last request that wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_batch: Option<SyncRecord>,
    /// The user's installations that have acknowledged something, the one seen last first.
    pub devices: Vec<DeviceStatus>,
}

/// What an installation has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceStatus {
    /// The installation.
    pub client: String,
    /// It has stored everything up to here.
    pub acked: Seq,
    /// Changes it is behind the head.
    pub behind: u64,
    /// Whether the app was in the foreground when it was last seen.
    pub active: bool,
    /// When, in milliseconds since the Unix epoch.
    pub last_seen: i64,
}

/// `project, epoch, head_seq, failed, place of the oldest, open_conflicts`
type ProjectRow = (String, String, i64, i64, Option<i64>, i64);
/// `project, client, acked, active, last_seen`
type DeviceRow = (String, String, i64, bool, i64);

/// `$list` are the names in the JSON list `$1`.
macro_rules! projects {
    ($list:literal, $of_user:literal) => {
        concat!(
            "SELECT h.project, h.epoch, h.head_seq,
                 (SELECT COUNT(*) FROM (
                     SELECT 1 FROM sync_queue q WHERE q.project = h.project AND q.op IS NOT NULL
                         AND ", $of_user, " LIMIT 10000) f),
                 (SELECT COALESCE(q.lane, q.at * 4096) FROM sync_queue q
                     WHERE q.project = h.project AND q.op IS NOT NULL AND ", $of_user, "
                     ORDER BY COALESCE(q.lane, q.at * 4096), q.op_id LIMIT 1),
                 (SELECT COUNT(*) FROM (
                     SELECT 1 FROM conflict_log q WHERE q.project = h.project AND q.state = 'open'
                         AND ", $of_user, " LIMIT 10000) c)
             FROM sync_head h WHERE h.project IN ", $list
        )
    };
}

macro_rules! last {
    ($list:literal, $of_user:literal) => {
        concat!(
            "SELECT l.* FROM sync_head h JOIN sync_log l ON l.project = h.project AND l.id = (
                 SELECT q.id FROM sync_log q WHERE q.project = h.project AND ",
            $of_user,
            "
                 ORDER BY q.id DESC LIMIT 1)
             WHERE h.project IN ",
            $list
        )
    };
}

macro_rules! devices {
    ($list:literal) => {
        concat!(
            "SELECT d.project, d.client, d.acked, d.active, d.last_seen FROM (
                 SELECT c.*, ROW_NUMBER() OVER (
                     PARTITION BY c.project ORDER BY c.last_seen DESC, c.client) AS nth
                 FROM device_cursors c WHERE c.user_id = $2 AND c.client <> '' AND c.project IN ",
            $list,
            ") d
             WHERE d.nth <= $3 ORDER BY d.project, d.nth"
        )
    };
}

/// The statement for the engine, and for one user or all.
macro_rules! pick {
    ($store:expr, $user:expr, $statement:ident) => {
        match (&$store.inner, $user) {
            (Inner::Sqlite { .. }, Some(_)) => {
                $statement!("(SELECT value FROM json_each($1))", "q.user_id = $2")
            }
            (Inner::Sqlite { .. }, None) => {
                $statement!("(SELECT value FROM json_each($1))", "CAST($2 AS TEXT) IS NULL")
            }
            (Inner::Postgres(_), Some(_)) => {
                $statement!("(SELECT json_array_elements_text(CAST($1 AS JSON)))", "q.user_id = $2")
            }
            (Inner::Postgres(_), None) => $statement!(
                "(SELECT json_array_elements_text(CAST($1 AS JSON)))",
                "CAST($2 AS TEXT) IS NULL"
            ),
        }
    };
}

/// What waits for users over all projects, each counted up to 100 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Backlog {
    /// Operations in the failed lane.
    pub failed: i64,
    /// Conflicts that wait for a decision.
    pub open_conflicts: i64,
}

const BACKLOG: &str = "
    SELECT (SELECT COUNT(*) FROM (
                SELECT 1 FROM sync_queue WHERE op IS NOT NULL LIMIT 100000) f) AS failed,
           (SELECT COUNT(*) FROM (
                SELECT 1 FROM conflict_log WHERE state = 'open' LIMIT 100000) c) AS open_conflicts";

impl Store {
    /// What waits for users over all projects.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        Ok(on_reader!(self, |db| sqlx::query_as(BACKLOG).fetch_one(db).await)?)
    }

    /// Where these projects stand, in their order, for a user or for all; devices are a user's only.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn sync_status(
        &self,
        projects: &[ProjectId],
        user: Option<&str>,
    ) -> Result<Vec<SyncStatus>, StoreError> {
        let names = value::json_text(&projects);
        let sql = pick!(self, user, projects);
        let rows: Vec<ProjectRow> = on_reader!(self, |db| {
            sqlx::query_as(sql).bind(&names).bind(user).fetch_all(db).await
        })?;
        let sql = pick!(self, user, last);
        let last: Vec<SyncRecord> = on_reader!(self, |db| {
            sqlx::query_as(sql).bind(&names).bind(user).fetch_all(db).await
        })?;
        let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.0.clone(), row)).collect();
        let mut last: HashMap<_, _> =
            last.into_iter().map(|record| (record.project.clone(), record)).collect();
        let mut devices = self.cursors(&names, user).await?;
        let status = |project: &ProjectId| {
            let row = rows.remove(project.as_str());
            let (epoch, head, failed, oldest, open_conflicts) = match row {
                Some((_, epoch, head, failed, oldest, open)) => {
                    (Some(value::epoch(&epoch)?), value::seq(head), failed, oldest, open)
                }
                None => (None, Seq::ZERO, 0, None, 0),
            };
            let device = |(_, client, acked, active, last_seen): DeviceRow| {
                let acked = value::seq(acked);
                let behind = head.0.saturating_sub(acked.0);
                DeviceStatus { client, acked, behind, active, last_seen }
            };
            let devices = devices.remove(project.as_str()).unwrap_or_default();
            Ok(SyncStatus {
                project: project.clone(),
                epoch,
                head,
                failed,
                oldest_failed: oldest.map(|place| place / 4096),
                open_conflicts,
                last_batch: last.remove(project.as_str()),
                devices: devices.into_iter().map(device).collect(),
            })
        };
        projects.iter().map(status).collect()
    }

    async fn cursors(
        &self,
        names: &str,
        user: Option<&str>,
    ) -> Result<HashMap<String, Vec<DeviceRow>>, StoreError> {
        let mut by_project: HashMap<String, Vec<DeviceRow>> = HashMap::new();
        let Some(user) = user else { return Ok(by_project) };
        let sql = match &self.inner {
            Inner::Sqlite { .. } => devices!("(SELECT value FROM json_each($1))"),
            Inner::Postgres(_) => devices!("(SELECT json_array_elements_text(CAST($1 AS JSON)))"),
        };
        let rows: Vec<DeviceRow> = on_reader!(self, |db| {
            sqlx::query_as(sql).bind(names).bind(user).bind(DEVICES).fetch_all(db).await
        })?;
        for row in rows {
            by_project.entry(row.0.clone()).or_default().push(row);
        }
        Ok(by_project)
    }
}
