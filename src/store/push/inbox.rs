//! A user's inbox: what they were notified of and may still read, in the projects their token grants.

use super::super::{Store, StoreError, value};
use super::NO_CHANGE;
use super::cancel::{Counts, cancel, cancel_deliveries, cancel_intents, write_counts};
use super::nid::nid;
use crate::id::{EntityType, ProjectId, UserId};
use crate::protocol::notify::Lane;

/// The largest unread count that is told.
const MOST_UNREAD: i64 = 999;

/// What may be told of a project.
#[derive(Debug, Clone)]
pub struct Reads {
    /// The project.
    pub project: ProjectId,
    /// The types of entities; none is every type.
    pub types: Option<Vec<EntityType>>,
}

/// What of an inbox is asked for.
#[derive(Debug, Clone, Default)]
pub struct InboxQuery {
    /// The projects to look at, and what may be seen of each.
    pub reads: Vec<Reads>,
    /// Only what is older than this notification.
    pub before: Option<String>,
    /// Only what is not read.
    pub unread: bool,
    /// How many.
    pub limit: u32,
}

/// A notification in an inbox.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct InboxRow {
    /// Its id.
    pub nid: String,
    /// The project it came from.
    pub project: String,
    /// The change it is about.
    pub evt_seq: i64,
    /// The title.
    pub title: String,
    /// The text.
    pub body: String,
    /// A JSON object for the app.
    pub data: Option<String>,
    /// A deep link.
    pub link: Option<String>,
    /// How urgent.
    pub lane: String,
    /// The template it was made from.
    pub template: Option<String>,
    /// The template's variables.
    pub vars: Option<String>,
    /// What kind it is.
    pub category: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it was first seen in a list.
    pub seen_at: Option<i64>,
    /// When it was read.
    pub read_at: Option<i64>,
}

/// `[project, null]` of one whose every type may be seen, `[project, type]` of each that may. What is about no
/// entity, or was asked about when it was made, needs no type.
macro_rules! seen_in {
    ($text:literal) => {
        concat!(
            $text,
            " project IN (SELECT value->>0 FROM ROWS($1))
      AND (COALESCE(entity_type, '') = '' OR EXISTS (SELECT 1 FROM ROWS($1)
        WHERE value->>0 = project AND COALESCE(value->>1, entity_type) = entity_type))"
        )
    };
    ($text:literal, $rest:literal) => {
        concat!(seen_in!($text), $rest)
    };
}

const PAGE: &str = seen_in!(
    "
    SELECT nid, project, evt_seq, title, body, data, link, lane, template, vars, category,
        created_at, seen_at, read_at
    FROM notifications
    WHERE user_id = $2 AND hidden = 0 AND ($3 = '' OR nid < $3) AND ($4 = 0 OR read_at IS NULL)
      AND",
    "
    ORDER BY nid DESC LIMIT $5"
);

const UNREAD: &str = seen_in!(
    "
    SELECT count(*) FROM (SELECT 1 FROM notifications
        WHERE user_id = $2 AND hidden = 0 AND read_at IS NULL AND",
    " LIMIT 999) n"
);

/// `$3` names one; empty is all up to now.
const READ: &str = seen_in!(
    "
    UPDATE notifications SET read_at = NOW_MS, seen_at = COALESCE(seen_at, NOW_MS)
    WHERE user_id = $2 AND hidden = 0 AND read_at IS NULL AND ($3 = '' OR nid = $3)
      AND ($4 = '' OR nid <= $4) AND",
    "
    RETURNING nid"
);

const SEEN: &str = seen_in!(
    "
    UPDATE notifications SET seen_at = NOW_MS
    WHERE user_id = $2 AND hidden = 0 AND seen_at IS NULL AND ($3 = '' OR nid <= $3) AND"
);

/// A push goes on as long as one of those it tells of is not read.
const CANCEL_READ: [&str; 2] = [
    cancel_intents!("read", "state = 'waiting' AND nid IN (SELECT value->>0 FROM ROWS($1))"),
    cancel_deliveries!(
        "read",
        "nid IN (SELECT value->>0 FROM ROWS($1)
            UNION ALL
            SELECT leader FROM push_intents
                WHERE leader IS NOT NULL AND nid IN (SELECT value->>0 FROM ROWS($1)))
      AND NOT EXISTS (SELECT 1 FROM notifications n
            WHERE n.nid = push_deliveries.nid AND n.read_at IS NULL)
      AND NOT EXISTS (SELECT 1 FROM push_intents i JOIN notifications n ON n.nid = i.nid
            WHERE i.leader = push_deliveries.nid AND n.read_at IS NULL)"
    ),
];

const FIND_SCHEDULED: &str = "
    SELECT i.nid FROM push_intents i JOIN notifications n ON n.nid = i.nid
    WHERE i.state = 'scheduled' AND i.project = $1 AND (n.nid = $2 OR n.collapse = $3) AND n.hidden = 1";

const UNSCHEDULE: &str = cancel_intents!(
    "unscheduled",
    "state = 'scheduled' AND nid IN (SELECT value->>0 FROM ROWS($1))"
);

/// What was scheduled and is no longer: forgotten before anybody saw it.
const FORGET: &str = "
    DELETE FROM notifications WHERE hidden = 1 AND nid IN (SELECT value->>0 FROM ROWS($1))";

const TEST_NOTIFICATION: &str = "
    INSERT INTO notifications (nid, project, user_id, evt_seq, title, body, lane, created_at, entity_type)
    VALUES ($1, $2, $3, 0, $4, $5, $6, NOW_MS, '')";

const TEST_INTENT: &str = "
    INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at,
        created_at, expires_at)
    VALUES ($1, $2, $3, $5, $4, 'waiting', NOW_MS, NOW_MS, NOW_MS, NOW_MS + 3600000)";

/// The rows of [`seen_in`].
fn rows(reads: &[Reads]) -> String {
    let mut rows: Vec<(&ProjectId, Option<&str>)> = Vec::with_capacity(reads.len());
    for Reads { project, types } in reads {
        match types.as_deref() {
            None => rows.push((project, None)),
            // No type is called that: what is about no entity is seen still.
            Some([]) => rows.push((project, Some(""))),
            Some(types) => rows.extend(types.iter().map(|kind| (project, Some(kind.as_str())))),
        }
    }
    value::json_text(&rows)
}

impl Reads {
    /// Everything in a project.
    #[must_use]
    pub fn all(project: ProjectId) -> Self {
        Self { project, types: None }
    }
}

impl Store {
    /// A page of a user's inbox, the latest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn inbox(&self, user: &UserId, q: &InboxQuery) -> Result<Vec<InboxRow>, StoreError> {
        let (dialect, reads) = (self.dialect(), rows(&q.reads));
        let before = q.before.as_deref().unwrap_or_default();
        let page: Result<_, sqlx::Error> = on_reader!(self, |db| {
            sqlx::query_as(dialect.sql(PAGE))
                .bind(reads)
                .bind(user.as_str())
                .bind(before)
                .bind(i64::from(q.unread))
                .bind(i64::from(q.limit))
                .fetch_all(db)
                .await
        });
        Ok(page?)
    }

    /// How many a user has not read, at most 999.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn unread(&self, user: &UserId, reads: &[Reads]) -> Result<i64, StoreError> {
        let (dialect, reads) = (self.dialect(), rows(reads));
        let count: Result<i64, sqlx::Error> = on_reader!(self, |db| {
            let query = sqlx::query_scalar(dialect.sql(UNREAD)).bind(reads);
            query.bind(user.as_str()).fetch_one(db).await
        });
        Ok(count?.min(MOST_UNREAD))
    }

    /// Marks one notification as read, or all up to `up_to`, and cancels their pushes that no provider has
    /// yet. Returns how many were marked.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mark_read(
        &self,
        user: &UserId,
        reads: &[Reads],
        nid: Option<&str>,
        up_to: Option<&str>,
    ) -> Result<usize, StoreError> {
        let (dialect, reads) = (self.dialect(), rows(reads));
        let read: Vec<String> = in_transaction!(self, |tx| {
            let read: Vec<String> = sqlx::query_scalar(dialect.sql(READ))
                .bind(&reads)
                .bind(user.as_str())
                .bind(nid.unwrap_or_default())
                .bind(up_to.unwrap_or_default())
                .fetch_all(&mut *tx)
                .await?;
            let nids = value::json_text(&read.iter().map(|nid| [nid]).collect::<Vec<_>>());
            let mut counts = Counts::default();
            for text in CANCEL_READ {
                cancel!(tx, counts, sqlx::query_as(dialect.sql(text)).bind(&nids));
            }
            write_counts!(tx, dialect, counts);
            read
        });
        Ok(read.len())
    }

    /// Marks everything up to `up_to` as seen in a list. Returns how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn mark_seen(
        &self,
        user: &UserId,
        reads: &[Reads],
        up_to: Option<&str>,
    ) -> Result<u64, StoreError> {
        let (dialect, reads) = (self.dialect(), rows(reads));
        let up_to = up_to.unwrap_or_default();
        let seen = execute!(
            self,
            sqlx::query(dialect.sql(SEEN)).bind(reads).bind(user.as_str()).bind(up_to)
        );
        Ok(seen)
    }

    /// Arms a push for a user that is about no change, to see that pushes work. Returns its id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn arm_test(
        &self,
        project: &ProjectId,
        user: &UserId,
        lane: Lane,
        title: &str,
        body: &str,
    ) -> Result<String, StoreError> {
        let dialect = self.dialect();
        let (title, body) = (value::text(title), value::text(body));
        let nid = in_transaction!(self, |tx| {
            let now: i64 =
                sqlx::query_scalar(dialect.sql("SELECT NOW_MS")).fetch_one(&mut *tx).await?;
            let nid = nid(now, 0);
            let (p, u, l) = (project.as_str(), user.as_str(), lane.as_str());
            let notification =
                sqlx::query(dialect.sql(TEST_NOTIFICATION)).bind(&nid).bind(p).bind(u);
            let notification = notification.bind(&*title).bind(&*body).bind(l);
            notification.execute(&mut *tx).await?;
            let intent = sqlx::query(dialect.sql(TEST_INTENT)).bind(&nid).bind(p).bind(u).bind(l);
            intent.bind(NO_CHANGE).execute(&mut *tx).await?;
            nid
        });
        self.armed.notify_one();
        Ok(nid)
    }

    /// Takes back what is scheduled in a project and not due yet: one notification, or all of a collapse
    /// key. Returns how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn unschedule(
        &self,
        project: &ProjectId,
        nid: Option<&str>,
        collapse: Option<&str>,
    ) -> Result<u64, StoreError> {
        let dialect = self.dialect();
        let canceled = in_transaction!(self, |tx| {
            let found = sqlx::query_scalar(dialect.sql(FIND_SCHEDULED)).bind(project.as_str());
            let found: Vec<String> = found.bind(nid).bind(collapse).fetch_all(&mut *tx).await?;
            let nids = value::json_text(&found.iter().map(|nid| [nid]).collect::<Vec<_>>());
            let mut counts = Counts::default();
            cancel!(tx, counts, sqlx::query_as(dialect.sql(UNSCHEDULE)).bind(&nids));
            sqlx::query(dialect.sql(FORGET)).bind(&nids).execute(&mut *tx).await?;
            write_counts!(tx, dialect, counts);
            counts.total()
        });
        Ok(u64::try_from(canceled).unwrap_or(0))
    }
}
