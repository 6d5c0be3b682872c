//! From a person to their devices: what is due is decided on and becomes deliveries, in one transaction.
//!
//! The decision is a pure function of a [`View`]; the intents it is about are locked, so that no two
//! instances decide on the same and an acknowledgement that comes meanwhile waits and finds it done. A
//! crash rolls back: nothing is ever half decided.

use std::collections::HashMap;

use super::super::{Store, StoreError, value};
use super::nid::nid;
use super::stats::{Counts, UPSERT_STATS};
use super::view::{Due, View};
use crate::protocol::notify::Lane;

/// A push for one device.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The notification.
    pub nid: String,
    /// The project.
    pub project: String,
    /// The user.
    pub user: String,
    /// The last change it is about, or [`NO_CHANGE`](super::NO_CHANGE).
    pub evt_seq: i64,
    /// How urgent.
    pub lane: String,
    /// Through whom.
    pub provider: String,
    /// To which device; none if the provider needs none.
    pub token: Option<i64>,
    /// What kind it is.
    pub category: Option<String>,
    /// What of the message does not change any more, as JSON.
    pub payload: String,
    /// When it is of no use any more.
    pub expires_at: i64,
    /// When its event was.
    pub created_at: i64,
}

/// What was decided.
#[derive(Debug, Default)]
pub struct Decided {
    /// Intents that end: which, how, why.
    pub ended: Vec<(i64, &'static str, &'static str)>,
    /// Intents among them that are told in the push of another: which, and the notification that leads.
    pub gathered: Vec<(i64, String)>,
    /// Intents that wait on: which, until when, why.
    pub deferred: Vec<(i64, i64, &'static str)>,
    /// Scheduled ones whose time has come: which, and until when their acknowledgement is waited for.
    pub announced: Vec<(i64, i64)>,
    /// What is to be sent.
    pub deliveries: Vec<NewDelivery>,
    /// The collapse keys something is pushed under: user, project, key.
    pub windows: Vec<(String, String, String)>,
    /// Who gets a push that counts against their cap; nobody if there is none.
    pub counted: Vec<String>,
}

/// One lane's; with the lane given, the index finds them however many others wait.
const LOCK_DUE: &str = "
    SELECT id FROM push_intents WHERE state = 'waiting' AND lane = $1 AND not_before <= NOW_MS
    ORDER BY not_before LIMIT $2 SKIP_LOCKED";

const LOCK_SCHEDULED: &str = "
    SELECT id FROM push_intents WHERE state = 'scheduled' AND not_before <= NOW_MS
    ORDER BY not_before LIMIT $1 SKIP_LOCKED";

const END: &str = "
    UPDATE push_intents SET state = r.state, reason = r.reason, leader = r.leader, updated_at = NOW_MS
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, value->>1 AS state, value->>2 AS reason, value->>3 AS leader
        FROM ROWS($1)) r
    WHERE push_intents.id = r.id";

/// One whose own time is still to come is of use for as long after that time. One that was due, and waits for
/// the end of quiet hours or with others of its key, gets no younger by it.
const DEFER: &str = "
    UPDATE push_intents SET not_before = r.until, reason = r.reason, updated_at = NOW_MS,
        expires_at = expires_at + CASE WHEN state = 'scheduled' THEN r.until - not_before ELSE 0 END
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, CAST(value->>1 AS BIGINT) AS until,
        value->>2 AS reason FROM ROWS($1)) r
    WHERE push_intents.id = r.id";

/// Nobody has seen it yet, so nobody knows it by its old name; the new one puts it where it is now in an inbox.
const ANNOUNCE: [&str; 2] = [
    "
    UPDATE push_intents SET state = 'waiting', nid = r.nid, not_before = r.until, updated_at = NOW_MS,
        created_at = NOW_MS
    FROM (SELECT CAST(value->>0 AS BIGINT) AS id, CAST(value->>1 AS BIGINT) AS until, value->>3 AS nid
        FROM ROWS($1)) r
    WHERE push_intents.id = r.id",
    "
    UPDATE notifications SET hidden = 0, nid = r.nid, created_at = NOW_MS
    FROM (SELECT value->>2 AS was, value->>3 AS nid FROM ROWS($1)) r
    WHERE notifications.nid = r.was",
];

const DELIVER: &str = "
    INSERT INTO push_deliveries (nid, project, user_id, evt_seq, lane, provider, token_id, category,
        payload, next_at, expires_at, created_at)
    SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT), value->>4, value->>5,
        CAST(value->>6 AS BIGINT), value->>7, value->>8, NOW_MS, CAST(value->>9 AS BIGINT),
        CAST(value->>10 AS BIGINT)
    FROM ROWS($1)";

const WINDOW: &str = "
    INSERT INTO push_windows (user_id, project, collapse, sent_at)
    SELECT value->>0, value->>1, value->>2, NOW_MS FROM ROWS($1) WHERE true
    ON CONFLICT (user_id, project, collapse) DO UPDATE SET sent_at = excluded.sent_at";

const COUNT: &str = "
    INSERT INTO push_minutes (user_id, minute, count)
    SELECT value->>0, NOW_MS / 60000, CAST(value->>1 AS BIGINT) FROM ROWS($1) WHERE true
    ON CONFLICT (user_id, minute) DO UPDATE SET count = push_minutes.count + excluded.count";

const NEXT_DUE: &str = "
    SELECT min(at) - NOW_MS FROM (
        SELECT min(not_before) AS at FROM push_intents WHERE state = 'waiting' AND lane = 'critical'
        UNION ALL
        SELECT min(not_before) FROM push_intents WHERE state = 'waiting' AND lane = 'high'
        UNION ALL
        SELECT min(not_before) FROM push_intents WHERE state = 'waiting' AND lane = 'normal'
        UNION ALL
        SELECT min(not_before) FROM push_intents WHERE state = 'scheduled') d";

type Triple = (String, String, String);

/// The due intents, locked: the most urgent first.
macro_rules! lock_due {
    ($tx:ident, $dialect:ident, $limit:ident) => {{
        let mut ids: Vec<i64> = Vec::new();
        for lane in Lane::ALL {
            let left = i64::from($limit) - ids.len() as i64;
            if left > 0 {
                let found = sqlx::query_scalar($dialect.sql(LOCK_DUE)).bind(lane.as_str());
                let found: Vec<i64> = found.bind(left).fetch_all(&mut *$tx).await?;
                ids.extend(found);
            }
        }
        let found = sqlx::query_scalar($dialect.sql(LOCK_SCHEDULED)).bind(i64::from($limit));
        ids.extend(found.fetch_all(&mut *$tx).await? as Vec<i64>);
        ids
    }};
}

impl Store {
    /// Waits until this process has armed a push.
    pub async fn armed(&self) {
        self.armed.notified().await;
    }

    /// How many milliseconds until the next push is due; none if none waits.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn next_due(&self) -> Result<Option<i64>, StoreError> {
        let dialect = self.dialect();
        let ms: Result<Option<i64>, sqlx::Error> = on_reader!(self, |db| {
            sqlx::query_scalar(dialect.sql(NEXT_DUE)).fetch_one(db).await
        });
        Ok(ms?)
    }

    /// Decides on at most `limit` pushes that are due, the most urgent first. Returns what was decided on,
    /// and what was decided.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn dispatch(
        &self,
        limit: u32,
        decide: &(dyn Fn(&View) -> Decided + Sync),
    ) -> Result<(View, Decided), StoreError> {
        let dialect = self.dialect();
        let result = in_transaction!(self, |tx| {
            let ids: Vec<i64> = lock_due!(tx, dialect, limit);
            let mut view = View::default();
            let mut decided = Decided::default();
            if !ids.is_empty() {
                view = look!(tx, dialect, ids);
                decided = decide(&view);
                let shown = decided.shown(&mut view);
                for (sql, rows) in decided.texts(&view, &shown) {
                    sqlx::query(dialect.sql(sql)).bind(rows).execute(&mut *tx).await?;
                }
            }
            (view, decided)
        });
        Ok(result)
    }
}

/// What is announced: the intent, until when it waits, what the notification was called, and what it is now.
type Shown = (i64, i64, String, String);

impl Decided {
    /// Gives what is announced its name, in the view as well.
    fn shown(&self, view: &mut View) -> Vec<Shown> {
        let until: HashMap<i64, i64> = self.announced.iter().copied().collect();
        let mut shown = Vec::with_capacity(until.len());
        for due in &mut view.due {
            let Some(until) = until.get(&due.id) else { continue };
            let was = std::mem::replace(&mut due.nid, nid(view.now, due.id));
            shown.push((due.id, *until, was, due.nid.clone()));
        }
        shown
    }

    /// The statements that make it so, each with its rows; none without rows.
    fn texts(&self, view: &View, shown: &[Shown]) -> Vec<(&'static str, String)> {
        let mut texts = Vec::new();
        let mut push = |sql, rows: Vec<serde_json::Value>| {
            if !rows.is_empty() {
                texts.push((sql, value::json_text(&rows)));
            }
        };
        use serde_json::json;
        let leaders: HashMap<i64, &str> =
            self.gathered.iter().map(|(id, leader)| (*id, leader.as_str())).collect();
        let end =
            |(id, state, reason): &(i64, &str, &str)| json!([id, state, reason, leaders.get(id)]);
        push(END, self.ended.iter().map(end).collect());
        push(DEFER, self.deferred.iter().map(|row| json!(row)).collect());
        for text in ANNOUNCE {
            push(text, shown.iter().map(|row| json!(row)).collect());
        }
        let delivery = |d: &NewDelivery| {
            json!([
                d.nid,
                d.project,
                d.user,
                d.evt_seq,
                d.lane,
                d.provider,
                d.token,
                d.category,
                d.payload,
                d.expires_at,
                d.created_at
            ])
        };
        push(DELIVER, self.deliveries.iter().map(delivery).collect());
        // In one order everywhere, so that two transactions cannot wait for each other.
        let mut windows: Vec<&Triple> = self.windows.iter().collect();
        windows.sort_unstable();
        windows.dedup();
        push(WINDOW, windows.into_iter().map(|row| json!(row)).collect());
        let mut counted: HashMap<&str, u32> = HashMap::new();
        self.counted.iter().for_each(|user| *counted.entry(user).or_default() += 1);
        let mut counted: Vec<_> = counted.into_iter().collect();
        counted.sort_unstable();
        push(COUNT, counted.into_iter().map(|row| json!(row)).collect());
        let mut counts = Counts::default();
        let by_id: HashMap<i64, &Due> = view.due.iter().map(|due| (due.id, due)).collect();
        for (id, state, reason) in &self.ended {
            if let Some(due) = by_id.get(id).filter(|_| *state != "done") {
                counts.add(&due.project, &due.lane, "", state, reason, 1);
            }
        }
        if !counts.is_empty() {
            texts.push((UPSERT_STATS, counts.rows()));
        }
        texts
    }
}
