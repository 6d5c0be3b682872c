//! Presence within one process: the pure core under a lock, and one task that keeps its time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::room::RoomCore;
use super::{Departure, News, PresencePage};
use crate::config;
use crate::id::{Room, UserId};
use crate::protocol::server::PresenceList;

/// The rooms of a single instance.
pub(crate) struct Local {
    config: config::Presence,
    news: mpsc::UnboundedSender<News>,
    rooms: Mutex<Rooms>,
    wake: Notify,
}

#[derive(Default)]
struct Rooms {
    rooms: HashMap<Room, (RoomCore, Option<Instant>)>,
    timers: BTreeSet<(Instant, Room)>,
}

impl Rooms {
    /// Moves the room's timer to when the room is due now.
    fn set_timer(&mut self, room: &Room) {
        let Some((core, timer)) = self.rooms.get_mut(room) else { return };
        let due = core.due();
        if *timer == due {
            return;
        }
        if let Some(at) = std::mem::replace(timer, due) {
            self.timers.remove(&(at, room.clone()));
        }
        if let Some(at) = due {
            self.timers.insert((at, room.clone()));
        }
    }
}

impl Local {
    pub(crate) fn new(config: config::Presence, news: mpsc::UnboundedSender<News>) -> Self {
        Self { config, news, rooms: Mutex::default(), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a room and wakes the worker.
    pub(crate) fn change(&self, room: &Room, change: impl FnOnce(&mut RoomCore, Instant)) {
        if room.project().is_none() {
            return;
        }
        let now = Instant::now();
        {
            let mut rooms = self.lock();
            let entry = rooms.rooms.entry(room.clone());
            change(&mut entry.or_insert_with(|| (RoomCore::new(now), None)).0, now);
            rooms.set_timer(room);
        }
        self.wake.notify_one();
    }

    pub(crate) fn leave(&self, room: &Room, user: &UserId, conn: u64, departure: Departure) {
        let grace = self.config.grace;
        self.change(room, |core, now| core.leave(user, conn, departure, now + grace));
    }

    pub(crate) fn list(&self, room: &Room) -> PresenceList {
        let page = self.page(room, None, self.config.members);
        PresenceList { users: page.users, members: page.members }
    }

    pub(crate) fn page(&self, room: &Room, after: Option<&UserId>, limit: usize) -> PresencePage {
        let rooms = self.lock();
        rooms.rooms.get(room).map(|(core, _)| core.page(after, limit)).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let rooms = self.lock();
        rooms.rooms.is_empty() && rooms.timers.is_empty()
    }

    /// Announces what is due and tells when to come again.
    fn poll(&self, now: Instant) -> Option<Instant> {
        let mut rooms = self.lock();
        while rooms.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, room)) = rooms.timers.pop_first() else { break };
            let Some((core, timer)) = rooms.rooms.get_mut(&room) else { continue };
            *timer = None;
            if let Some(delta) = core.poll(&room, now, &self.config) {
                // The hub is gone only when the process ends.
                let _ = self.news.send(News::Delta(delta));
            }
            if core.is_over(now) {
                rooms.rooms.remove(&room);
            } else {
                rooms.set_timer(&room);
            }
        }
        rooms.timers.first().map(|(at, _)| *at)
    }

    pub(crate) async fn run(&self, shutdown: &CancellationToken) {
        loop {
            let next = self.poll(Instant::now());
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}
