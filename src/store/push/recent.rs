//! The latest pushes of a project and what became of each, for a log that people look at.

use super::super::{Store, StoreError};
use crate::id::ProjectId;

/// A push, as far as it got: armed, or on its way to one device.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct Recent {
    /// The notification.
    pub nid: String,
    /// Who is to hear of it.
    pub user_id: String,
    /// What it says.
    pub title: String,
    /// How urgent.
    pub lane: String,
    /// When its event was.
    pub created_at: i64,
    /// The state of its delivery; before there is one, of the armed push.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// Through whom it goes.
    pub provider: Option<String>,
    /// When the provider took it.
    pub accepted_at: Option<i64>,
}

macro_rules! recent {
    ($which:literal) => {
        concat!(
            "
    SELECT n.nid, n.user_id, n.title, n.lane, n.created_at, COALESCE(d.state, i.state) AS state,
        COALESCE(d.error, i.reason) AS reason, d.provider, d.accepted_at
    FROM notifications n JOIN push_intents i ON i.nid = n.nid
    LEFT JOIN push_deliveries d ON d.nid = n.nid
    WHERE ",
            $which
        )
    };
}

const RECENT: &str = recent!("n.project = $1 AND n.hidden = 0 ORDER BY n.nid DESC LIMIT $2");

const OF_ONE: &str = recent!("n.nid = $1 ORDER BY d.id");

impl Store {
    /// The latest pushes of a project, the latest first. Reads the inbox backwards until it has `limit` of the
    /// project: for development, where there is little else in it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn recent_pushes(
        &self,
        project: &ProjectId,
        limit: u32,
    ) -> Result<Vec<Recent>, StoreError> {
        let dialect = self.dialect();
        let rows: Result<_, sqlx::Error> = on_reader!(self, |db| {
            let query = sqlx::query_as(dialect.sql(RECENT)).bind(project.as_str());
            query.bind(i64::from(limit)).fetch_all(db).await
        });
        Ok(rows?)
    }

    /// What has become of the pushes of one notification so far.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn pushes_of(&self, nid: &str) -> Result<Vec<Recent>, StoreError> {
        let dialect = self.dialect();
        let rows: Result<_, sqlx::Error> = on_reader!(self, |db| {
            sqlx::query_as(dialect.sql(OF_ONE)).bind(nid).fetch_all(db).await
        });
        Ok(rows?)
    }
}
