//! Presence through Redis: one worker keeps Redis in step with this instance's sessions.
//!
//! It works in turns: renew the lease and compare what clients were told with what was announced, remove
//! some of a dead instance's sessions, send the projects that are due, sleep until something is due again. A failed turn is repeated; nothing is lost by it, since
//! the registry keeps what Redis did not confirm.
//!
//! Sessions are registered under a *holder*, a name this instance takes. When Redis may have lost
//! something or the lease lapsed, the instance takes a new name, registers everything under it, and lets
//! the old one be removed like a dead instance's: whatever the old name still held, or held wrongly, goes
//! away with it, and users who are here under the new one do not flicker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisResult;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::heard::Heard;
use super::registry::Registry;
use super::script::{Scripts, Stepped};
use super::{Delta, News, PresenceError, PresencePage};
use crate::config;
use crate::id::{InstanceId, ProjectId, Room, UserId};
use crate::protocol::server::PresenceList;

/// Projects sent side by side in one turn.
const STEPS: usize = 32;
/// How long after a failure the next turn comes.
const RETRY: Duration = Duration::from_millis(250);
/// How long the hand-over at shutdown may take.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Presence shared through Redis.
pub(crate) struct Redis {
    config: config::Presence,
    scripts: Scripts,
    instance: InstanceId,
    news: mpsc::UnboundedSender<News>,
    registry: Mutex<Registry>,
    heard: Mutex<Heard>,
    wake: Notify,
    resync: AtomicBool,
    down: AtomicBool,
}

impl Redis {
    pub(crate) fn new(
        config: config::Presence,
        scripts: Scripts,
        instance: InstanceId,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let registry = Mutex::new(Registry::new(config.grace));
        let (resync, down) = (AtomicBool::new(false), AtomicBool::new(false));
        let heard = Mutex::default();
        Self { config, scripts, instance, news, registry, heard, wake: Notify::new(), resync, down }
    }

    fn told(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delta is about to be delivered to this instance's clients.
    pub(crate) fn heard(&self, delta: &Delta) {
        let counts = delta.version > 0 && self.registry().has_room(&delta.room);
        if counts && self.told().delta(delta) {
            self.wake.notify_one();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes this instance's sessions and wakes the worker.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Registry, Instant)) {
        change(&mut self.registry(), Instant::now());
        self.wake.notify_one();
    }

    pub(crate) fn resync(&self) {
        self.resync.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(crate) async fn list(&self, room: &Room) -> PresenceList {
        let limit = self.config.members;
        if !self.down.load(Ordering::Relaxed)
            && let Some(project) = room.project()
            && let Ok((page, version)) = self.scripts.page(project, room, None, limit).await
        {
            if self.registry().has_room(room) {
                self.told().first_listed(room, version);
            }
            return PresenceList { users: page.users, members: page.members };
        }
        self.registry().list(room, limit, Instant::now())
    }

    pub(crate) async fn page(
        &self,
        room: &Room,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<PresencePage, PresenceError> {
        let Some(project) = room.project() else { return Ok(PresencePage::default()) };
        let page = self.scripts.page(project, room, after, limit).await;
        page.map(|(page, _)| page).map_err(PresenceError::Unavailable)
    }

    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        let mut worker = Worker::new(self);
        while !shutdown.is_cancelled() {
            let result = worker.turn().await;
            self.report(&result);
            let pause = async {
                match result {
                    Ok(next) => tokio::select! {
                        () = tokio::time::sleep_until(next) => {}
                        () = self.wake.notified() => {}
                    },
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.registry().lose_all(Instant::now());
        match tokio::time::timeout(HAND_OVER, worker.hand_over()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "presence was not handed over"),
            Err(_) => tracing::warn!("presence was not handed over in time"),
        }
    }

    /// Says once that Redis is gone, and once that it is back.
    fn report(&self, result: &RedisResult<Instant>) {
        let was_down = self.down.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_down => {
                tracing::warn!(%error, "presence of other instances is not available");
            }
            Ok(_) if was_down => tracing::info!("presence of other instances is back"),
            _ => {}
        }
    }

    fn announce(&self, deltas: Vec<Delta>) {
        for delta in deltas {
            // The hub is gone only when the process ends.
            let _ = self.news.send(News::Delta(delta));
        }
    }

    /// Asks Redis where this instance's clients may be behind.
    async fn compare(&self) -> RedisResult<()> {
        let projects = self.registry().rooms();
        for some in projects.chunks(STEPS) {
            let calls = some.iter().map(|(project, rooms)| self.scripts.versions(project, rooms));
            for ((_, rooms), versions) in some.iter().zip(join_all(calls).await) {
                let versions = versions?;
                let mut told = self.told();
                rooms.iter().zip(versions).for_each(|(room, version)| told.compare(room, version));
            }
        }
        // In this order of locks, as everywhere: the registry first.
        let registry = self.registry();
        self.told().keep(|room| registry.has_room(room));
        Ok(())
    }

    /// Tells the clients in some rooms anew who is there.
    async fn heal(&self) -> RedisResult<()> {
        let rooms = self.told().take_behind(STEPS);
        let calls = rooms.iter().filter_map(|room| {
            Some(self.scripts.page(room.project()?, room, None, self.config.members))
        });
        let mut failed = None;
        for (room, page) in rooms.iter().zip(join_all(calls).await) {
            match page {
                Ok((page, version)) => {
                    self.told().listed(room, version);
                    let list = PresenceList { users: page.users, members: page.members };
                    let _ = self.news.send(News::Whole(room.clone(), list));
                }
                Err(error) => {
                    self.told().still_behind([room.clone()]);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

struct Worker<'a> {
    shared: &'a Redis,
    /// The name this instance's sessions are registered under.
    holder: String,
    /// Whether that name has no lease yet.
    fresh: bool,
    generation: u64,
    /// The name whose sessions are being registered anew; it keeps its lease until that is done.
    previous: Option<String>,
    /// Names of ours whose sessions are to be removed.
    retired: Vec<String>,
    /// Dead holders' projects still to be cleared.
    dead: VecDeque<(String, ProjectId)>,
    next_beat: Instant,
    /// Until then some instances may not have told Redis again what it forgot: it is not believed.
    doubted_until: Instant,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Redis) -> Self {
        Self {
            shared,
            holder: format!("{}.0", shared.instance.0.simple()),
            fresh: true,
            generation: 0,
            previous: None,
            retired: Vec::new(),
            dead: VecDeque::new(),
            next_beat: Instant::now(),
            doubted_until: Instant::now(),
        }
    }

    /// Does what is due, and tells when the next turn is.
    async fn turn(&mut self) -> RedisResult<Instant> {
        if self.shared.resync.swap(false, Ordering::AcqRel) {
            self.rename();
        }
        if self.next_beat <= Instant::now() {
            self.beat().await?;
        }
        if self.doubted_until <= Instant::now() && self.shared.told().is_behind() {
            self.shared.heal().await?;
        }
        self.reap().await?;
        let sent = self.send().await;
        if sent.is_err() {
            // Whatever happened, find out first whether the lease still stands.
            self.next_beat = Instant::now();
        }
        sent?;
        if self.previous.is_some() && !self.shared.registry().is_restoring() {
            self.retire_previous().await?;
        }
        let due = self.shared.registry().due();
        let reap = self.dead.front().map(|_| Instant::now());
        let healed = self.shared.told().is_behind().then_some(self.doubted_until);
        Ok(due.into_iter().chain(reap).chain(healed).fold(self.next_beat, Instant::min))
    }

    /// Takes a new name, under which every session is to be registered.
    fn rename(&mut self) {
        self.generation += 1;
        let name = format!("{}.{}", self.shared.instance.0.simple(), self.generation);
        let old = std::mem::replace(&mut self.holder, name);
        match &self.previous {
            None => self.previous = Some(old),
            // It got part of the sessions at most; the older one tells what Redis still knows.
            Some(_) => self.retired.push(old),
        }
        self.fresh = true;
        self.next_beat = Instant::now();
        self.doubted_until = Instant::now() + self.shared.config.lease;
        self.shared.registry().restore(Instant::now());
    }

    /// Renews the lease, or takes a new name if it lapsed; finds the dead.
    async fn beat(&mut self) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        let lapsed = loop {
            let mut holders = vec![(self.holder.as_str(), self.fresh)];
            holders.extend(self.previous.as_deref().map(|previous| (previous, false)));
            let (alive, lapsed) = scripts.beat(&holders).await?;
            if alive.contains(&self.holder) {
                break lapsed;
            }
            tracing::warn!("the presence lease was lost; registering all sessions again");
            self.rename();
        };
        self.fresh = false;
        self.next_beat = Instant::now() + self.shared.config.heartbeat;
        let idle = self.shared.registry().retire();
        scripts.unindex(&self.holder, &idle).await?;
        if self.dead.is_empty() {
            self.find_dead(lapsed).await?;
        }
        self.shared.compare().await
    }

    async fn find_dead(&mut self, mut lapsed: Vec<String>) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        lapsed.retain(|holder| !self.retired.contains(holder));
        lapsed.extend(self.retired.iter().cloned());
        // Until everything is registered anew, the previous name is all that others see of us.
        lapsed.retain(|holder| Some(holder) != self.previous.as_ref());
        for holder in lapsed {
            let projects = scripts.indexed(&holder).await?;
            if projects.is_empty() {
                scripts.bury(&holder).await?;
                self.retired.retain(|retired| *retired != holder);
            }
            self.dead.extend(projects.into_iter().map(|project| (holder.clone(), project)));
        }
        Ok(())
    }

    /// Removes some of the dead's sessions, and takes over the timers they leave.
    async fn reap(&mut self) -> RedisResult<()> {
        let scripts = &self.shared.scripts;
        let some: Vec<_> = self.dead.iter().take(STEPS).cloned().collect();
        let calls = some.iter().map(|(holder, project)| scripts.reap(project, holder));
        let mut done = Vec::new();
        let mut failed = None;
        for ((holder, project), result) in some.iter().zip(join_all(calls).await) {
            match result {
                Ok(Stepped { next, remaining, deltas }) => {
                    self.shared.announce(deltas);
                    if remaining == 0 {
                        done.push((holder.clone(), project.clone(), next));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        for (holder, project, next) in done {
            if let Some(ms) = next {
                scripts.index(&self.holder, std::slice::from_ref(&project)).await?;
                let at = Instant::now() + Duration::from_millis(ms + 1);
                self.shared.registry().adopt(&project, at);
            }
            scripts.unindex(&holder, std::slice::from_ref(&project)).await?;
            self.dead.retain(|(h, p)| (h, p) != (&holder, &project));
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sends the projects that are due.
    async fn send(&mut self) -> RedisResult<()> {
        let shared = self.shared;
        let steps = shared.registry().take(Instant::now(), STEPS);
        let new: Vec<_> = steps.iter().filter(|s| s.new).map(|s| s.project.clone()).collect();
        if let Err(error) = shared.scripts.index(&self.holder, &new).await {
            let mut registry = shared.registry();
            steps.iter().for_each(|step| registry.fail(step, Instant::now()));
            return Err(error);
        }
        let (holder, previous) = (self.holder.as_str(), self.previous.as_deref());
        let calls = steps.iter().map(|s| shared.scripts.step(&s.project, holder, previous, &s.ops));
        let mut failed = None;
        for (step, result) in steps.iter().zip(join_all(calls).await) {
            let now = Instant::now();
            match result {
                Ok(Stepped { next, deltas, .. }) => {
                    shared.announce(deltas);
                    let next = next.map(|ms| now + Duration::from_millis(ms + 1));
                    shared.registry().confirm(step, next, now);
                }
                Err(error) => {
                    shared.registry().fail(step, now);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Everything is registered under the new name: what the old one holds may go.
    async fn retire_previous(&mut self) -> RedisResult<()> {
        let Some(previous) = &self.previous else { return Ok(()) };
        let projects = self.shared.registry().projects();
        self.shared.scripts.index(previous, &projects).await?;
        self.shared.scripts.abandon(previous).await?;
        self.retired.extend(self.previous.take());
        self.next_beat = Instant::now();
        Ok(())
    }

    /// Tells Redis that the remaining sessions are lost, and leaves their timers to the others.
    async fn hand_over(&mut self) -> RedisResult<()> {
        while self.shared.registry().is_behind() {
            self.turn().await?;
        }
        for holder in self.previous.iter().chain([&self.holder]) {
            self.shared.scripts.abandon(holder).await?;
        }
        Ok(())
    }
}
