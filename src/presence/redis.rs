//! Presence through Redis: one worker keeps Redis in step with this instance's sessions.
//!
//! It works in turns ([`super::worker`]): renew the lease and compare what clients were told with what was
//! announced, remove some of a dead instance's sessions, send the projects that are due, sleep until something
//! is due again. A failed turn is repeated; nothing is lost by it, since the registry keeps what Redis did not
//! confirm.

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
use super::script::Scripts;
use super::worker::Worker;
use super::{Delta, News, PresenceError, PresencePage};
use crate::config;
use crate::id::{InstanceId, Room, UserId};
use crate::protocol::server::PresenceList;

/// Projects sent side by side in one turn.
pub(super) const STEPS: usize = 32;
/// How long after a failure the next turn comes.
const RETRY: Duration = Duration::from_millis(250);
/// How long the hand-over at shutdown may take.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Presence shared through Redis.
pub(crate) struct Redis {
    pub(super) config: config::Presence,
    pub(super) scripts: Scripts,
    pub(super) instance: InstanceId,
    news: mpsc::UnboundedSender<News>,
    registry: Mutex<Registry>,
    heard: Mutex<Heard>,
    wake: Notify,
    pub(super) resync: AtomicBool,
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

    pub(super) fn told(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a delta that arrived is to be delivered to this instance's clients.
    pub(crate) fn heard(&self, delta: &Delta) -> bool {
        if delta.version == 0 || !self.registry().has_room(&delta.room) {
            return true;
        }
        let mut told = self.told();
        let deliver = told.delta(delta);
        if told.is_behind() {
            self.wake.notify_one();
        }
        deliver
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
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

    pub(super) fn announce(&self, deltas: Vec<Delta>) {
        for delta in deltas {
            // The hub is gone only when the process ends.
            let _ = self.news.send(News::Delta(delta));
        }
    }

    /// Asks Redis where this instance's clients may be behind.
    pub(super) async fn compare(&self) -> RedisResult<()> {
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
    pub(super) async fn heal(&self) -> RedisResult<()> {
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
