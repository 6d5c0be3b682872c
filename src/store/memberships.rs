//! Who is in which project, with which role, and in which order that changed.
//!
//! Every change takes the next revision from the one row of `membership_head`, and holds that row's lock
//! until it is committed: so revisions become visible in their order, and whoever has read up to one
//! misses nothing by asking for those after it. Deleted rows have none; the head says that there was one.

use super::push::cancel::{Counts, cancel_of_member, write_counts};
use super::{MemberAnswer, MemberEvent, Membership, MembershipHead, Standing, Store};
use super::{StoreError, heads, value};
use crate::id::{ProjectId, RoleName, UserId};
use crate::protocol::op::Outcome;

const TAKE_REVISIONS: &str =
    "UPDATE membership_head SET revision = revision + $1 WHERE one = 1 RETURNING revision";

/// Changes nothing if the role is the same already.
const SET: &str = "
    INSERT INTO memberships (project, user_id, role, revision, updated_at)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (project, user_id) DO UPDATE
    SET role = excluded.role, revision = excluded.revision, updated_at = excluded.updated_at
    WHERE memberships.role IS DISTINCT FROM excluded.role";

/// A verdict under the event's id may be about to be written by the project's log.
const LOCK_LOG: &str = "UPDATE sync_head SET head_seq = head_seq WHERE project = $1";

const KNOWN: &str =
    "SELECT payload_hash, verdict FROM sync_queue WHERE project = $1 AND op_id = $2";

const REMEMBER: &str = "
    INSERT INTO sync_queue (project, op_id, payload_hash, outcome, verdict, client, at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// `project, user_id, role, revision, updated_at`
type Row = (String, String, Option<String>, i64, i64);

fn read((project, user, role, revision, at): Row) -> Result<(Membership, i64), StoreError> {
    let standing = match role {
        Some(role) => Standing::Role(value::name(&role)?),
        None => Standing::Removed,
    };
    let (project, user) = (value::name(&project)?, value::name(&user)?);
    Ok((Membership { project, user, standing, revision }, at))
}

impl Store {
    /// Gives a user a role in a project, or with `None` takes away what a token may grant, and cancels what
    /// waits to be pushed to them from there. Returns what changed, if anything did.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_member(
        &self,
        project: &ProjectId,
        user: &UserId,
        role: Option<&RoleName>,
        now_ms: i64,
    ) -> Result<Option<Membership>, StoreError> {
        let dialect = self.dialect();
        let (changed, revision) = in_transaction!(self, |tx| {
            let revision: i64 =
                sqlx::query_scalar(TAKE_REVISIONS).bind(1_i64).fetch_one(&mut *tx).await?;
            let set = sqlx::query(SET)
                .bind(project.as_str())
                .bind(user.as_str())
                .bind(role.map(RoleName::as_str))
                .bind(revision)
                .bind(now_ms)
                .execute(&mut *tx)
                .await?;
            let changed = set.rows_affected() > 0;
            if changed && role.is_none() {
                let mut counts = Counts::default();
                cancel_of_member!(tx, dialect, counts, project, user);
                write_counts!(tx, dialect, counts);
            }
            (changed, revision)
        });
        Ok(changed.then(|| Membership {
            project: project.clone(),
            user: user.clone(),
            standing: role.cloned().into(),
            revision,
        }))
    }

    /// Deletes what is known of a user in a project: their token decides again. Returns the deletion, if
    /// there was anything.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget_member(
        &self,
        project: &ProjectId,
        user: &UserId,
    ) -> Result<Option<Membership>, StoreError> {
        const DELETE: &str = "DELETE FROM memberships WHERE project = $1 AND user_id = $2";
        const FORGOTTEN: &str = "UPDATE membership_head SET forgotten = revision WHERE one = 1";
        let (deleted, revision) = in_transaction!(self, |tx| {
            let revision: i64 =
                sqlx::query_scalar(TAKE_REVISIONS).bind(1_i64).fetch_one(&mut *tx).await?;
            let delete = sqlx::query(DELETE).bind(project.as_str()).bind(user.as_str());
            let deleted = delete.execute(&mut *tx).await?.rows_affected() > 0;
            if deleted {
                sqlx::query(FORGOTTEN).execute(&mut *tx).await?;
            }
            (deleted, revision)
        });
        let standing = Standing::Forgotten;
        let (project, user) = (project.clone(), user.clone());
        Ok(deleted.then_some(Membership { project, user, standing, revision }))
    }

    /// Applies a backend's events about one project's members in their order, each id once, together
    /// with the verdict that answers a repetition.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn member_events(
        &self,
        project: &ProjectId,
        events: &[MemberEvent],
        now_ms: i64,
    ) -> Result<Vec<MemberAnswer>, StoreError> {
        let dialect = self.dialect();
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        Ok(in_transaction!(self, |tx| {
            let last: i64 =
                sqlx::query_scalar(TAKE_REVISIONS).bind(count).fetch_one(&mut *tx).await?;
            sqlx::query(heads::BEGIN_SEQUENCE)
                .bind(project.as_str())
                .bind(heads::new_epoch())
                .execute(&mut *tx)
                .await?;
            sqlx::query(LOCK_LOG).bind(project.as_str()).execute(&mut *tx).await?;
            let mut counts = Counts::default();
            let mut answers = Vec::with_capacity(events.len());
            for (event, revision) in events.iter().zip(last - count + 1..) {
                let known: Option<(Vec<u8>, String)> = sqlx::query_as(KNOWN)
                    .bind(project.as_str())
                    .bind(event.op_id.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
                if let Some((hash, verdict)) = known {
                    answers.push(if hash == event.payload_hash {
                        MemberAnswer::Replayed(value::raw_json(verdict)?)
                    } else {
                        MemberAnswer::Reused
                    });
                    continue;
                }
                let set = sqlx::query(SET)
                    .bind(project.as_str())
                    .bind(event.user.as_str())
                    .bind(event.role.as_ref().map(RoleName::as_str))
                    .bind(revision)
                    .bind(now_ms)
                    .execute(&mut *tx)
                    .await?;
                let changed = set.rows_affected() > 0;
                if changed && event.role.is_none() {
                    cancel_of_member!(tx, dialect, counts, project, event.user);
                }
                let outcome = if changed { Outcome::Applied } else { Outcome::Noop };
                sqlx::query(REMEMBER)
                    .bind(project.as_str())
                    .bind(event.op_id.as_str())
                    .bind(&event.payload_hash[..])
                    .bind(outcome.as_str())
                    .bind(value::json_text(&event.verdict(outcome)))
                    .bind(value::text(&event.client).as_ref())
                    .bind(now_ms)
                    .execute(&mut *tx)
                    .await?;
                answers.push(MemberAnswer::New(changed.then(|| event.change(project, revision))));
            }
            write_counts!(tx, dialect, counts);
            answers
        }))
    }

    /// A project's members in the order of their names, those taken out included, each with the time of
    /// the last change, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn members(
        &self,
        project: &ProjectId,
        after: Option<&UserId>,
        limit: u32,
    ) -> Result<Vec<(UserId, Option<RoleName>, i64)>, StoreError> {
        const PAGE: &str = "
            SELECT project, user_id, role, revision, updated_at FROM memberships
            WHERE project = $1 AND user_id > $2 ORDER BY user_id LIMIT $3";
        let rows: Vec<Row> = on_reader!(self, |db| sqlx::query_as(PAGE)
            .bind(project.as_str())
            .bind(after.map_or("", UserId::as_str))
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)?;
        let member = |row| read(row).map(|(m, at)| (m.user, m.standing.role(), at));
        rows.into_iter().map(member).collect()
    }

    /// What is stored of a user in a project.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn membership(
        &self,
        project: &ProjectId,
        user: &UserId,
    ) -> Result<Option<Membership>, StoreError> {
        const ONE: &str = "
            SELECT project, user_id, role, revision, updated_at FROM memberships
            WHERE project = $1 AND user_id = $2";
        let row: Option<Row> = on_reader!(self, |db| sqlx::query_as(ONE)
            .bind(project.as_str())
            .bind(user.as_str())
            .fetch_optional(db)
            .await)?;
        row.map(|row| read(row).map(|(membership, _)| membership)).transpose()
    }

    /// How far memberships have changed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn membership_head(&self) -> Result<MembershipHead, StoreError> {
        const HEAD: &str = "SELECT revision, forgotten FROM membership_head WHERE one = 1";
        let (revision, forgotten): (i64, i64) =
            on_reader!(self, |db| sqlx::query_as(HEAD).fetch_one(db).await)?;
        Ok(MembershipHead { revision, forgotten })
    }

    /// Memberships that changed after a revision, in the order of their revisions.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn memberships_after(
        &self,
        revision: i64,
        limit: u32,
    ) -> Result<Vec<Membership>, StoreError> {
        const PAGE: &str = "
            SELECT project, user_id, role, revision, updated_at FROM memberships
            WHERE revision > $1 ORDER BY revision LIMIT $2";
        let rows: Vec<Row> = on_reader!(self, |db| sqlx::query_as(PAGE)
            .bind(revision)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await)?;
        rows.into_iter().map(|row| read(row).map(|(membership, _)| membership)).collect()
    }
}
