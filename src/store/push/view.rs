//! What a decision on due pushes is made on: the pushes, who they are for, and what is known of them.
//!
//! Read in the transaction that has the intents locked.

use std::collections::HashMap;

use super::super::value;
use super::devices::Device;
use crate::protocol::notify::Lane;

/// A push that is due, with its notification.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Due {
    /// The intent.
    pub id: i64,
    /// The notification.
    pub nid: String,
    /// The project.
    pub project: String,
    /// Who is to hear of it.
    pub user_id: String,
    /// The change whose acknowledgement disarms it, or [`NO_CHANGE`](super::NO_CHANGE).
    pub evt_seq: i64,
    /// How urgent.
    pub lane: String,
    /// `waiting`, or `scheduled` if its time comes only now.
    pub state: String,
    /// When it was armed.
    pub created_at: i64,
    /// When it is of no use any more.
    pub expires_at: i64,
    /// How long to wait for an acknowledgement, for one that was scheduled.
    pub grace: i64,
    /// The time on the recipient's own clock it is scheduled for.
    pub local_time: Option<String>,
    /// Why it was made to wait.
    pub reason: Option<String>,
    /// The title.
    pub title: String,
    /// The text.
    pub body: String,
    /// A JSON object for the app.
    pub data: Option<String>,
    /// A deep link.
    pub link: Option<String>,
    /// Pushes of one key are gathered.
    pub collapse: Option<String>,
    /// What kind it is.
    pub category: Option<String>,
    /// When it was read, if it was.
    pub read_at: Option<i64>,
    /// The type of the entity it is about; empty if it is about none.
    pub entity_type: Option<String>,
    /// What is stored of the recipient in the project: a role, nothing if they were taken out, none
    /// without a row.
    pub standing: Option<String>,
}

/// What a decision is made on.
#[derive(Debug, Default)]
pub struct View {
    /// The time, in milliseconds since the Unix epoch.
    pub now: i64,
    /// What is due.
    pub due: Vec<Due>,
    /// The devices of each user, disabled ones left out.
    pub devices: HashMap<String, Vec<Device>>,
    /// What installations have stored: by user, installation and project.
    pub acked: HashMap<(String, String, String), i64>,
    /// When something was last pushed: by user, project and collapse key.
    pub windows: HashMap<(String, String, String), i64>,
    /// Pushes to each user in the last 60 minutes, the one that has begun included.
    pub counts: HashMap<String, i64>,
    /// Users with a connection.
    pub live: Vec<String>,
}

pub(super) const READ_DUE: &str = "
    SELECT i.id, i.nid, i.project, i.user_id, i.evt_seq, i.lane, i.state, i.created_at, i.expires_at,
        i.grace, i.local_time, i.reason, n.title, n.body, n.data, n.link, n.collapse,
        n.category, n.read_at, n.entity_type,
        (SELECT COALESCE(m.role, '') FROM memberships m
            WHERE m.project = i.project AND m.user_id = i.user_id) AS standing
    FROM push_intents i JOIN notifications n ON n.nid = i.nid
    WHERE i.id IN (SELECT CAST(value->>0 AS BIGINT) FROM ROWS($1)) ORDER BY i.lane, i.id";

pub(super) const DEVICES: &str = "
    SELECT * FROM push_tokens
    WHERE state <> 'disabled' AND user_id IN (SELECT value->>0 FROM ROWS($1)) ORDER BY id";

pub(super) const ACKED: &str = "
    SELECT user_id, client, project, acked FROM device_cursors
    WHERE user_id IN (SELECT value->>0 FROM ROWS($1))";

pub(super) const WINDOWS: &str = "
    SELECT user_id, project, collapse, sent_at FROM push_windows
    WHERE user_id IN (SELECT value->>0 FROM ROWS($1))";

pub(super) const COUNTS: &str = "
    SELECT user_id, CAST(sum(count) AS BIGINT) FROM push_minutes
    WHERE minute > NOW_MS / 60000 - 60 AND user_id IN (SELECT value->>0 FROM ROWS($1))
    GROUP BY user_id";

pub(super) const LIVE: &str = "
    SELECT DISTINCT u.user_id FROM live_users u JOIN live_instances i ON i.instance = u.instance
    WHERE i.until > NOW_MS AND u.user_id IN (SELECT value->>0 FROM ROWS($1))";

/// One instance at a time decides on a user: what each may send rests on what the other just sent. In buckets, so
/// that they are few, and in order, so that no two wait for each other. A transaction of SQLite is alone anyway.
pub(super) const LOCK_USERS: &str = "
    SELECT pg_advisory_xact_lock(8473, bucket) FROM (
        SELECT DISTINCT hashtext(value->>0) & 1023 AS bucket FROM ROWS($1) ORDER BY 1 OFFSET 0) u";

/// All that a decision on these intents needs to know.
macro_rules! look {
    ($tx:ident, $dialect:ident, $ids:ident) => {{
        use $crate::store::push::devices::Device;
        use $crate::store::push::view as sql;
        use $crate::store::push::view::View;
        macro_rules! of {
            ($sql:ident, $rows:ident) => {
                sqlx::query_as($dialect.sql(sql::$sql)).bind(&$rows).fetch_all(&mut *$tx).await?
            };
        }
        let mut view = View::default();
        let ids = value::json_text(&$ids.iter().map(|id| [id]).collect::<Vec<_>>());
        view.now = sqlx::query_scalar($dialect.sql("SELECT NOW_MS")).fetch_one(&mut *$tx).await?;
        view.due = of!(READ_DUE, ids);
        let users = view.users();
        if matches!($dialect, $crate::store::dialect::Dialect::Postgres) {
            let lock = sqlx::query($dialect.sql(sql::LOCK_USERS)).bind(view.bounded());
            lock.execute(&mut *$tx).await?;
        }
        let devices: Vec<Device> = of!(DEVICES, users);
        for device in devices {
            view.devices.entry(device.user_id.clone()).or_default().push(device);
        }
        let acked: Vec<(String, String, String, i64)> = of!(ACKED, users);
        view.acked = acked.into_iter().map(|(u, c, p, seq)| ((u, c, p), seq)).collect();
        let windows: Vec<(String, String, String, i64)> = of!(WINDOWS, users);
        view.windows = windows.into_iter().map(|(u, p, k, at)| ((u, p, k), at)).collect();
        let counts: Vec<(String, i64)> = of!(COUNTS, users);
        view.counts = counts.into_iter().collect();
        let live: Vec<(String,)> = of!(LIVE, users);
        view.live = live.into_iter().map(|(user,)| user).collect();
        view
    }};
}

impl View {
    /// Each recipient once, as the rows of the statements above.
    pub(super) fn users(&self) -> String {
        self.users_of(|_| true)
    }

    /// The same without those who get emergencies only, which nothing bounds.
    pub(super) fn bounded(&self) -> String {
        self.users_of(|due| due.lane != Lane::Critical.as_str())
    }

    fn users_of(&self, which: impl Fn(&Due) -> bool) -> String {
        let due = self.due.iter().filter(|due| which(due));
        let mut users: Vec<_> = due.map(|due| [due.user_id.as_str()]).collect();
        users.sort_unstable();
        users.dedup();
        value::json_text(&users)
    }
}
