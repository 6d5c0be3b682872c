//! Notifications, and the pushes that follow them, written in the transaction of their change.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::push::{NO_CHANGE, nid};
use super::super::{Audience, NewNotification, StoreError, value};
use super::write::column;
use super::{Decision, Tx};
use crate::id::{ProjectId, UserId};

/// Rows in one statement.
const CHUNK: usize = 5000;

const NOTIFICATIONS: &str = "
    INSERT INTO notifications (nid, project, user_id, evt_seq, title, body, data, link, lane,
        created_at, template, vars, collapse, category, hidden, entity_type)
    SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS BIGINT), value->>4, value->>5,
        value->>6, value->>7, value->>8, CAST(value->>9 AS BIGINT), value->>10, value->>11,
        value->>12, value->>13, CASE WHEN value->>14 IS NULL THEN 0 ELSE 1 END,
        value->>15
    FROM ROWS($1)";

/// Who has no connection on any instance is not waited for. A scheduled push answers to no
/// acknowledgement: a later one says nothing about it. It is of use for so long from when it is due, and what
/// should have been sent before now is due now.
const INTENTS: &str = "
    INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at,
        created_at, expires_at, grace, local_time)
    SELECT nid, project, user_id, CASE WHEN at IS NULL THEN evt_seq ELSE $2 END,
        lane, CASE WHEN at IS NULL THEN 'waiting' ELSE 'scheduled' END,
        CASE WHEN at IS NOT NULL THEN due
            WHEN EXISTS (SELECT 1 FROM live_users u JOIN live_instances i ON i.instance = u.instance
                WHERE u.user_id = r.user_id AND i.until > now) THEN now + grace
            ELSE now END,
        now, now, due + ttl, grace, local_time
    FROM (SELECT s.*, CASE WHEN at > now THEN at ELSE now END AS due
        FROM (SELECT value->>0 AS nid, value->>1 AS project, value->>2 AS user_id,
            CAST(value->>3 AS BIGINT) AS evt_seq, value->>4 AS lane, CAST(value->>5 AS BIGINT) AS grace,
            CAST(value->>6 AS BIGINT) AS ttl, CAST(value->>7 AS BIGINT) AS at,
            value->>8 AS local_time, NOW_MS AS now
            FROM ROWS($1)) s) r";

/// What the project's members among these users are; who is none is left to the token they come with.
const ROLES: &str = "
    SELECT user_id, role FROM memberships
    WHERE project = $2 AND user_id IN (SELECT value->>0 FROM ROWS($1))";

const MEMBERS: &str = "
    SELECT user_id FROM memberships
    WHERE project = $2 AND role IN (SELECT value->>0 FROM ROWS($1))";

/// Finds the recipients of every draft, and what of it is due at once.
pub(super) async fn address(tx: &mut Tx, decisions: &mut [Decision]) -> Result<(), StoreError> {
    if decisions.iter().all(|decision| decision.effects.notifications.is_empty()) {
        return Ok(());
    }
    let dialect = tx.dialect();
    let now: i64 = on_tx!(tx, |db| {
        sqlx::query_scalar(dialect.sql("SELECT NOW_MS")).fetch_one(&mut *db).await?
    });
    for decision in decisions {
        for mut draft in std::mem::take(&mut decision.effects.notifications) {
            draft.schedule = draft.schedule.filter(|it| it.at > now || it.local.is_some());
            let recipients = recipients(tx, &decision.snapshot.project, &draft.audience).await?;
            let draft = Arc::new(draft);
            decision.notifications.extend(recipients.into_iter().map(|user| NewNotification {
                nid: nid(now, value::from_seq(draft.seq)),
                user,
                draft: draft.clone(),
            }));
        }
    }
    Ok(())
}

/// Those named, unless they are members who may not read it, and the members asked for; never who did it.
async fn recipients(
    tx: &mut Tx,
    project: &ProjectId,
    audience: &Audience,
) -> Result<BTreeSet<UserId>, StoreError> {
    let dialect = tx.dialect();
    let mut recipients: BTreeSet<UserId> = audience.users.iter().cloned().collect();
    if !recipients.is_empty() {
        let users: Vec<_> = recipients.iter().map(|user| [user]).collect();
        let users = value::json_text(&users);
        let known: Vec<(String, Option<String>)> = on_tx!(tx, |db| {
            let query = sqlx::query_as(dialect.sql(ROLES)).bind(users).bind(project.as_str());
            query.fetch_all(&mut *db).await?
        });
        for (user, role) in known {
            let reads = |role: &String| audience.readers.iter().any(|known| known.as_str() == role);
            if !role.as_ref().is_some_and(reads) {
                recipients.remove(user.as_str());
            }
        }
    }
    if !audience.member_roles.is_empty() {
        let roles: Vec<_> = audience.member_roles.iter().map(|role| [role]).collect();
        let roles = value::json_text(&roles);
        let members: Vec<String> = on_tx!(tx, |db| {
            let query = sqlx::query_scalar(dialect.sql(MEMBERS)).bind(roles);
            query.bind(project.as_str()).fetch_all(&mut *db).await?
        });
        for member in members.iter().filter(|member| **member != audience.actor) {
            recipients.insert(value::name(member)?);
        }
    }
    Ok(recipients)
}

/// Stores notifications and arms a push for each.
pub(super) async fn arm(tx: &mut Tx, rows: &[(&str, &NewNotification)]) -> Result<(), StoreError> {
    let dialect = tx.dialect();
    for rows in rows.chunks(CHUNK) {
        let notifications = column(rows, |(project, n)| {
            let d = &n.draft;
            let (title, body) = (value::text(&d.title), value::text(&d.body));
            let link = d.link.as_deref().map(value::text);
            let scheduled = d.schedule.as_ref().map(|s| s.at);
            let named = (&d.template, &d.vars, &d.collapse, &d.category, scheduled);
            let (template, vars, collapse, category, scheduled) = named;
            serde_json::json!([
                n.nid,
                project,
                n.user,
                d.seq,
                title,
                body,
                d.data,
                link,
                d.lane,
                d.created_at,
                template,
                vars,
                collapse,
                category,
                scheduled,
                d.about
            ])
        });
        let intents = column(rows, |(project, n)| {
            let d = &n.draft;
            let (at, local) =
                d.schedule.as_ref().map_or((None, None), |s| (Some(s.at), s.local.as_ref()));
            (&n.nid, project, &n.user, d.seq, d.lane, d.grace, d.ttl, at, local)
        });
        let (notifications, intents) =
            (value::json_text(&notifications), value::json_text(&intents));
        on_tx!(tx, |db| {
            sqlx::query(dialect.sql(NOTIFICATIONS)).bind(notifications).execute(&mut *db).await?;
            sqlx::query(dialect.sql(INTENTS))
                .bind(intents)
                .bind(NO_CHANGE)
                .execute(&mut *db)
                .await?;
        });
    }
    Ok(())
}
