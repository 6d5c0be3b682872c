//! What pushes tell of, as it is now: the notifications each stands for, and what their users have seen and have
//! not read. Read for all of a request just before it is made, because a push may have waited for long.

use std::collections::{HashMap, HashSet};

use super::super::{Store, StoreError, value};
use super::deliver::Claimed;

/// A notification that a push tells of, alone or with others.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Member {
    /// The notification whose push it is: itself, or the one that leads.
    pub leader: String,
    /// Its own name.
    pub nid: String,
    /// The change whose acknowledgement disarms it, or [`NO_CHANGE`](super::NO_CHANGE).
    pub evt_seq: i64,
    /// The title.
    pub title: String,
    /// The text.
    pub body: String,
    /// A JSON object for the app.
    pub data: Option<String>,
    /// A deep link.
    pub link: Option<String>,
    /// The template.
    pub template: Option<String>,
    /// The template's variables.
    pub vars: Option<String>,
    /// How urgent.
    pub lane: String,
    /// What kind it is.
    pub category: Option<String>,
    /// The type of the entity it is about; empty if it is about none.
    pub entity_type: Option<String>,
    /// What is stored of the user in the project, as in [`Due`](super::Due).
    pub standing: Option<String>,
    /// When it was read, if it was.
    pub read_at: Option<i64>,
    /// Whether it is still of use.
    pub in_time: bool,
}

/// What somebody has not read in a project, of one type.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Unread {
    /// Who.
    pub user_id: String,
    /// The type of the entities.
    pub entity_type: Option<String>,
    /// What is stored of them in the project.
    pub standing: Option<String>,
    /// How many.
    pub count: i64,
}

/// How far an installation is in a project.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Cursor {
    /// Whose it is.
    pub user_id: String,
    /// The installation; empty is all that have no name.
    pub client: String,
    /// The project.
    pub project: String,
    /// It has stored everything up to there.
    pub acked: i64,
    /// Its user has seen everything up to there.
    pub seen: i64,
}

/// What some pushes tell of.
#[derive(Debug, Default)]
pub struct Content {
    /// By the notification whose push it is, in their order.
    pub members: HashMap<String, Vec<Member>>,
    /// By user.
    pub unread: HashMap<String, Vec<Unread>>,
    /// Of all installations of the users, in these projects.
    pub cursors: Vec<Cursor>,
}

/// What is read of each. Two statements rather than one with a `UNION`: for that PostgreSQL starts workers, which takes
/// longer than all else.
macro_rules! members {
    ($from:literal) => {
        concat!(
            "
    SELECT r.nid AS leader, n.nid, COALESCE(i.evt_seq, n.evt_seq) AS evt_seq, n.title, n.body, n.data, n.link,
        n.template, n.vars, n.lane, n.category, n.entity_type, n.read_at, COALESCE(i.expires_at > NOW_MS, TRUE) AS in_time,
        (SELECT COALESCE(m.role, '') FROM memberships m
            WHERE m.project = n.project AND m.user_id = n.user_id) AS standing
    FROM (SELECT value->>0 AS nid FROM ROWS($1)) r ",
            $from
        )
    };
}

/// The notifications themselves.
const OWN: &str =
    members!("JOIN notifications n ON n.nid = r.nid LEFT JOIN push_intents i ON i.nid = n.nid");

/// Those that they lead.
const LED: &str = members!(
    "JOIN push_intents i ON i.leader = r.nid JOIN notifications n ON n.nid = i.nid ORDER BY n.nid"
);

const UNREAD: &str = "
    SELECT user_id, entity_type, count,
        (SELECT COALESCE(m.role, '') FROM memberships m
            WHERE m.project = n.project AND m.user_id = n.user_id) AS standing
    FROM (SELECT user_id, project, entity_type, count(*) AS count FROM notifications
        WHERE read_at IS NULL AND hidden = 0 AND user_id IN (SELECT value->>0 FROM ROWS($1))
        GROUP BY user_id, project, entity_type) n";

/// `$1` are users and projects.
const CURSORS: &str = "
    SELECT c.user_id, c.client, c.project, c.acked, c.seen
    FROM (SELECT value->>0 AS user_id, value->>1 AS project FROM ROWS($1)) u
    JOIN device_cursors c ON c.user_id = u.user_id AND c.project = u.project";

impl Content {
    /// How far what was claimed is known already: seen by its user, or stored on its device.
    #[must_use]
    pub fn known(&self, claimed: &Claimed) -> i64 {
        let of_user = self.cursors.iter().filter(|cursor| {
            cursor.user_id == claimed.user_id && cursor.project == claimed.project
        });
        let known = of_user.map(|cursor| {
            let own = claimed.client.as_deref() == Some(&*cursor.client);
            if own { cursor.acked.max(cursor.seen) } else { cursor.seen }
        });
        known.max().unwrap_or(0)
    }
}

impl Store {
    /// What these deliveries tell of.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn content(&self, claimed: &[Claimed]) -> Result<Content, StoreError> {
        let dialect = self.dialect();
        let nids: HashSet<_> = claimed.iter().map(|c| [&c.nid]).collect();
        let users: HashSet<_> = claimed.iter().map(|c| [&c.user_id, &c.project]).collect();
        let (nids, users) = (value::json_text(&nids), value::json_text(&users));
        type Read = (Vec<Member>, Vec<Unread>, Vec<Cursor>);
        let read: Result<Read, sqlx::Error> = on_reader!(self, |db| async {
            // The one that leads is the latest.
            let mut members: Vec<Member> =
                sqlx::query_as(dialect.sql(LED)).bind(&nids).fetch_all(db).await?;
            let own = sqlx::query_as(dialect.sql(OWN)).bind(&nids).fetch_all(db).await?;
            members.extend(own);
            let unread = sqlx::query_as(dialect.sql(UNREAD)).bind(&users).fetch_all(db).await?;
            let cursors = sqlx::query_as(dialect.sql(CURSORS)).bind(&users).fetch_all(db).await?;
            Ok((members, unread, cursors))
        }
        .await);
        let (members, unread, cursors) = read?;
        let mut content = Content { cursors, ..Content::default() };
        for member in members {
            content.members.entry(member.leader.clone()).or_default().push(member);
        }
        for unread in unread {
            content.unread.entry(unread.user_id.clone()).or_default().push(unread);
        }
        Ok(content)
    }
}
