//! Notifications read back, to be sent once more.

use std::sync::Arc;

use super::{Audience, Draft, NewNotification, Store, StoreError, value};
use crate::id::{EntityType, ProjectId, Seq};

#[derive(sqlx::FromRow)]
struct Row {
    nid: String,
    user_id: String,
    evt_seq: i64,
    title: String,
    body: String,
    data: Option<String>,
    link: Option<String>,
    lane: String,
    category: Option<String>,
    created_at: i64,
    r#type: String,
}

impl Row {
    fn read(self) -> Result<(NewNotification, EntityType), StoreError> {
        let kind: EntityType = value::name(&self.r#type)?;
        let draft = Draft {
            audience: Audience::default(),
            seq: value::seq(self.evt_seq),
            about: kind.clone(),
            title: self.title,
            body: self.body,
            template: None,
            vars: None,
            data: self.data,
            link: self.link,
            lane: value::lane(&self.lane)?,
            collapse: None,
            category: self.category,
            schedule: None,
            grace: 0,
            ttl: 0,
            created_at: self.created_at,
        };
        let user = value::name(&self.user_id)?;
        Ok((NewNotification { nid: self.nid, user, draft: Arc::new(draft) }, kind))
    }
}

impl Store {
    /// The notifications about these changes of a project whose push still waits, each with the type of
    /// the entity it is about.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn waiting_notifications(
        &self,
        project: &ProjectId,
        seqs: &[Seq],
    ) -> Result<Vec<(NewNotification, EntityType)>, StoreError> {
        const WAITING: &str = "
            SELECT n.nid, n.user_id, n.evt_seq, n.title, n.body, n.data, n.link, n.lane,
                   n.category, n.created_at, c.type
            FROM push_intents i JOIN notifications n ON n.nid = i.nid
            JOIN changes c ON c.project = i.project AND c.seq = i.evt_seq
            WHERE i.project = $1 AND i.evt_seq BETWEEN $2 AND $3 AND i.state = 'waiting'
            ORDER BY i.evt_seq, n.nid";
        let (Some(first), Some(last)) = (seqs.iter().min(), seqs.iter().max()) else {
            return Ok(Vec::new());
        };
        let rows: Vec<Row> = on_reader!(self, |db| {
            sqlx::query_as(WAITING)
                .bind(project.as_str())
                .bind(value::from_seq(*first))
                .bind(value::from_seq(*last))
                .fetch_all(db)
                .await
        })?;
        let about = rows.into_iter().filter(|row| seqs.contains(&value::seq(row.evt_seq)));
        about.map(Row::read).collect()
    }
}
