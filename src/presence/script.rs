//! The Redis side of presence: its scripts, its keys, and their replies as values.
//!
//! Called by `redis` alone. Every key of a project carries the project as its hash tag, so one script
//! touches one slot; a script is given the base of the keys and extends it, which a Cluster allows as long
//! as the slot is the same. The leases, and each holder's list of projects, are keys of their own slots:
//! a holder ([`crate::id::InstanceId`] and a count) is one instance between two losses of Redis.

use redis::{AsyncCommands, RedisResult, Script};
use serde_json::value::RawValue;

use super::session::{Op, OpKind};
use super::{DELTA_USERS, Delta, PresencePage};
use crate::bus::{RedisLink, key};
use crate::config;
use crate::id::{ProjectId, Room, UserId};
use crate::protocol::server::{Member, RawState};

/// The scripts and the link they run over. Calls run side by side share the link's pipeline.
pub(crate) struct Scripts {
    link: RedisLink,
    prefix: String,
    batch: u64,
    grace: u64,
    lease: u64,
    members: usize,
    step: Script,
    page: Script,
    beat: Script,
    versions: Script,
}

/// What a step answered.
pub(crate) struct Stepped {
    /// Milliseconds until the project is due again.
    pub(crate) next: Option<u64>,
    /// Sessions of the dead holder that are still there.
    pub(crate) remaining: u64,
    /// What this instance has to announce.
    pub(crate) deltas: Vec<Delta>,
}

type RawDelta = (String, u64, u64, u64, Vec<String>, Vec<String>, Vec<String>);

impl Scripts {
    pub(crate) fn new(config: &config::Presence, prefix: &str, link: RedisLink) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            link,
            prefix: prefix.to_owned(),
            // Redis refuses an expiry of zero.
            batch: ms(config.batch).max(1),
            grace: ms(config.grace),
            lease: ms(config.lease),
            members: config.members,
            step: Script::new(include_str!("step.lua")),
            page: Script::new(include_str!("page.lua")),
            beat: Script::new(include_str!("beat.lua")),
            versions: Script::new(include_str!("versions.lua")),
        }
    }

    fn base(&self, project: &ProjectId) -> String {
        key(&self.prefix, project.as_str(), "presence")
    }

    fn leases(&self) -> String {
        format!("{}:presence:leases", self.prefix)
    }

    fn projects(&self, holder: &str) -> String {
        key(&self.prefix, holder, "presence:projects")
    }

    /// Applies operations of `holder` in one project and announces what is due there.
    pub(crate) async fn step(
        &self,
        project: &ProjectId,
        holder: &str,
        previous: Option<&str>,
        ops: &[Op],
    ) -> RedisResult<Stepped> {
        let mut call = self.step.prepare_invoke();
        call.key(self.base(project)).arg(holder).arg(previous.unwrap_or_default());
        call.arg(self.batch).arg(self.grace).arg(DELTA_USERS);
        for op in ops {
            let kind = match op.kind {
                OpKind::Put => "put",
                OpKind::Restore => "restore",
                OpKind::Left => "left",
                OpKind::Lost => "lost",
            };
            call.arg(kind).arg(op.room.to_string()).arg(op.user.as_str()).arg(op.conn);
            call.arg(op.state.as_ref().map_or("", |state| state.0.get()));
        }
        self.stepped(call).await
    }

    /// Removes some of a dead holder's sessions in one project and announces what is due there.
    pub(crate) async fn reap(&self, project: &ProjectId, dead: &str) -> RedisResult<Stepped> {
        let mut call = self.step.prepare_invoke();
        call.key(self.base(project)).arg("").arg("");
        call.arg(self.batch).arg(self.grace).arg(DELTA_USERS);
        call.arg("reap").arg("").arg(dead).arg("").arg("");
        self.stepped(call).await
    }

    async fn stepped(&self, call: redis::ScriptInvocation<'_>) -> RedisResult<Stepped> {
        let (next, remaining, deltas): (i64, u64, Vec<RawDelta>) =
            call.invoke_async(&mut self.link.clone()).await?;
        let deltas = deltas.into_iter().filter_map(|raw| self.delta(raw)).collect();
        Ok(Stepped { next: u64::try_from(next).ok(), remaining, deltas })
    }

    /// Names that this version cannot read are another version's: they are left out.
    fn delta(
        &self,
        (room, version, prev, users, joined, left, updated): RawDelta,
    ) -> Option<Delta> {
        let room = room.parse().ok()?;
        let left = left.iter().filter_map(|user| UserId::new(user).ok()).collect();
        let (joined, updated) = (members(joined), members(updated));
        let delta = Delta { room, joined, left, updated, users, version, prev };
        Some(delta.sampled(self.members))
    }

    /// One page of a room, and the version of the room it shows.
    pub(crate) async fn page(
        &self,
        project: &ProjectId,
        room: &Room,
        after: Option<&UserId>,
        limit: usize,
    ) -> RedisResult<(PresencePage, u64)> {
        let mut call = self.page.prepare_invoke();
        call.key(self.base(project)).arg(room.to_string());
        // One more than asked for tells whether there is another page.
        call.arg(after.map_or("", UserId::as_str)).arg(limit + 1);
        let (users, raw, version): (u64, Vec<String>, u64) =
            call.invoke_async(&mut self.link.clone()).await?;
        let mut members = members(raw);
        let more = members.len() > limit;
        members.truncate(limit);
        let next = members.last().filter(|_| more).map(|member| member.user.clone());
        Ok((PresencePage { users, members, next }, version))
    }

    /// The versions last announced of some rooms of a project; 0 of those that were forgotten.
    pub(crate) async fn versions(
        &self,
        project: &ProjectId,
        rooms: &[Room],
    ) -> RedisResult<Vec<u64>> {
        let mut call = self.versions.prepare_invoke();
        call.key(self.base(project));
        for room in rooms {
            call.arg(room.to_string());
        }
        call.invoke_async(&mut self.link.clone()).await
    }

    /// Renews or takes leases; returns who holds one now and whose lapsed.
    pub(crate) async fn beat(
        &self,
        holders: &[(&str, bool)],
    ) -> RedisResult<(Vec<String>, Vec<String>)> {
        let mut call = self.beat.prepare_invoke();
        call.key(self.leases()).arg(self.lease);
        for (holder, new) in holders {
            call.arg(holder).arg(if *new { "new" } else { "renew" });
        }
        call.invoke_async(&mut self.link.clone()).await
    }

    /// Notes that `holder` may have sessions in these projects.
    pub(crate) async fn index(&self, holder: &str, projects: &[ProjectId]) -> RedisResult<()> {
        if projects.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = projects.iter().map(ProjectId::as_str).collect();
        self.link.clone().sadd(self.projects(holder), names).await
    }

    /// The opposite of [`Self::index`].
    pub(crate) async fn unindex(&self, holder: &str, projects: &[ProjectId]) -> RedisResult<()> {
        if projects.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = projects.iter().map(ProjectId::as_str).collect();
        self.link.clone().srem(self.projects(holder), names).await
    }

    /// The projects in which `holder` may have sessions.
    pub(crate) async fn indexed(&self, holder: &str) -> RedisResult<Vec<ProjectId>> {
        let names: Vec<String> = self.link.clone().smembers(self.projects(holder)).await?;
        Ok(names.iter().filter_map(|name| ProjectId::new(name).ok()).collect())
    }

    /// Ends a holder's lease: whoever comes first removes its sessions.
    pub(crate) async fn abandon(&self, holder: &str) -> RedisResult<()> {
        self.link.clone().zadd(self.leases(), holder, 0).await
    }

    /// Forgets a dead holder that has nothing left.
    pub(crate) async fn bury(&self, holder: &str) -> RedisResult<()> {
        self.link.clone().zrem(self.leases(), holder).await
    }
}

/// Name, state, name, state, …
fn members(raw: Vec<String>) -> Vec<Member> {
    let mut raw = raw.into_iter();
    let pairs = std::iter::from_fn(|| Some((raw.next()?, raw.next()?)));
    pairs
        .filter_map(|(user, state)| {
            let state = match state.as_str() {
                "" | "null" => None,
                _ => Some(RawState(RawValue::from_string(state).ok()?.into())),
            };
            Some(Member { user: UserId::new(&user).ok()?, state })
        })
        .collect()
}
