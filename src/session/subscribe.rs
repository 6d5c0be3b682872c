//! Joining rooms: each is authorised, entered and answered, then read from its cursor on.
//!
//! For each room of the log: REGISTER in the shard, LOCATE the cursor, answer, READ what came after it,
//! go LIVE ([`super::catch_up`]). There is no buffer per subscription to drain or overflow: the feed keeps the recent changes
//! for everyone, and the shard is one thread. A reader goes live in the very turn in which it has read
//! the feed's recent changes to their end; what the shard is told later is newer, or is skipped by the
//! reader's cursor.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::spawn_local;

use super::shard::Shard;
use super::table::{ConnRef, Joined, State};
use crate::auth::{Command, Permit};
use crate::fanout::Feed;
use crate::fanout::feed::Stage;
use crate::id::{EntityKey, Epoch, Room, Seq};
use crate::protocol::client::{RequestId, Subscribe, SubscribeRoom};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::server::{
    PresenceList, ResyncReason, ServerFrame, SubscribeResult, Subscribed,
};
use crate::sync::pages::Page;
/// How long a subscription waits for a project's log to open while the store does not answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// A room that is registered, and what it still needs before it can be answered.
struct Joining {
    name: String,
    /// `None` for what was refused.
    room: Result<Room, Refusal>,
    feed: Option<Arc<Feed>>,
    since: Option<Seq>,
    epoch: Option<Epoch>,
    scope: Option<String>,
    presence: bool,
}

/// Where a room's reader begins, if it reads the log, and who is present, if that was asked.
type Located = (Result<Option<Start>, Refusal>, Option<PresenceList>);

/// Where a reader begins.
struct Start {
    epoch: Epoch,
    head: Seq,
    /// The cursor to read on from; `None` begins live at `head`.
    from: Option<Seq>,
    resync: Option<ResyncReason>,
    /// A page that was read while locating.
    page: Option<Arc<Page>>,
}

impl Start {
    /// The same, but a reader without a cursor begins where the log stands now: what the shard is told
    /// from this turn on comes after that, and what it was told before lies before it.
    fn now(mut self, feed: Option<&Feed>) -> Self {
        if let Some((epoch, head)) = feed.and_then(Feed::head).filter(|_| self.from.is_none()) {
            self.head = if epoch == self.epoch { self.head.max(head) } else { head };
            self.epoch = epoch;
        }
        self
    }
}

impl Start {
    /// The same, or no resuming for a cursor that was stored under another scope: what the client lacks of
    /// what it may read now lies before it.
    fn under(mut self, scope: &str, joining: &Joining) -> Self {
        let asked = joining.scope.as_deref().filter(|_| self.from.is_some());
        if asked.is_some_and(|asked| asked != scope) {
            (self.from, self.page) = (None, None);
            self.resync = Some(ResyncReason::ScopeChanged);
        }
        self
    }
}

impl Joining {
    fn entity(&self) -> Option<EntityKey> {
        match &self.room {
            Ok(Room::Entity(_, entity)) => Some(entity.clone()),
            _ => None,
        }
    }

    fn reads_log(&self) -> bool {
        matches!(&self.room, Ok(Room::Project(_) | Room::Entity(..)))
    }

    /// Whether all it needs is in memory.
    fn is_ready(&self) -> bool {
        let Some(feed) = &self.feed else { return true };
        if self.presence {
            return false;
        }
        if self.reads_log() { feed.stage() == Stage::Open } else { feed.stage() >= Stage::Attached }
    }
}

impl Shard {
    /// Joins rooms and answers for each.
    pub(super) fn subscribe(
        self: &Rc<Self>,
        conn: ConnRef,
        id: Option<RequestId>,
        subscribe: Subscribe,
    ) {
        let joining: Vec<_> =
            subscribe.rooms.into_iter().map(|asked| self.register(conn, asked)).collect();
        if joining.iter().all(Joining::is_ready) {
            let starts: Vec<_> = joining.iter().map(|j| self.locate_now(j)).collect();
            if starts.iter().all(Option::is_some) {
                let starts = starts.into_iter().flatten().map(|s| (s, None)).collect();
                return self.begin(conn, id.as_ref(), joining, starts);
            }
        }
        let shard = self.clone();
        spawn_local(async move {
            let starts = join_all(joining.iter().map(|j| shard.locate(j))).await;
            if shard.is_open(conn) {
                shard.begin(conn, id.as_ref(), joining, starts);
            }
        });
    }

    /// Authorises one room and enters the connection, not live yet.
    fn register(&self, conn: ConnRef, asked: SubscribeRoom) -> Joining {
        let room = asked.room.parse::<Room>().map_err(Refusal::from).and_then(|room| {
            let permit = self.permit(conn, Command::Read(&room))?;
            if asked.presence {
                let _may_appear = self.permit(conn, Command::Presence(&room))?;
            }
            Ok((room, permit))
        });
        let entered = room.and_then(|(room, permit)| {
            let feed = self.enter(conn, &room, &permit, &asked)?;
            Ok((room, feed))
        });
        let (room, feed) = match entered {
            Ok((room, feed)) => (Ok(room), feed),
            Err(refusal) => (Err(refusal), None),
        };
        Joining {
            name: asked.room,
            room,
            feed,
            since: asked.since,
            epoch: asked.epoch,
            scope: asked.scope,
            presence: asked.presence,
        }
    }

    fn enter(
        &self,
        conn: ConnRef,
        room: &Room,
        permit: &Permit,
        asked: &SubscribeRoom,
    ) -> Result<Option<Arc<Feed>>, Refusal> {
        let Some(project) = room.project() else { return Ok(None) };
        let mut state = self.state.borrow_mut();
        let State { conns, registry, .. } = &mut *state;
        let Some(known) = conns.get_mut(conn.slot as usize) else { return Ok(None) };
        let at = known.rooms.iter().position(|joined| *joined.room == *room);
        let limit = self.hub.config.limits.rooms;
        if at.is_none() && known.rooms.len() >= limit {
            return Err(Refusal::limit("rooms", limit as u64));
        }
        let rooms = registry.enter(project, || self.hub.relay.feeds.watch(project, self.index));
        let name = rooms.shared_name(room).unwrap_or_else(|| Arc::new(room.clone()));
        let (_, role) = permit.in_project()?;
        match room {
            Room::Project(_) => rooms.read(conn.slot, None, role, asked.since),
            Room::Entity(_, entity) => rooms.read(conn.slot, Some(entity), role, asked.since),
            Room::Ephemeral(..) => rooms.join(conn.slot, &name),
            Room::User(_) => {}
        }
        if asked.presence {
            rooms.watch_presence(conn.slot, &name);
            if let Some(identity) = &known.identity {
                self.hub.presence.join(room, identity.grants.user(), conn.id, None);
            }
        }
        let joined = Joined { room: name, presence: asked.presence };
        if asked.presence && at.is_none_or(|at| !known.rooms[at].presence) {
            self.hub.metrics.presence_members.inc();
        }
        match at {
            Some(at) => known.rooms[at].presence |= joined.presence,
            None => {
                known.rooms.push(joined);
                self.hub.metrics.subscriptions.inc();
            }
        }
        Ok(Some(rooms.feed.clone()))
    }

    /// Locates a cursor with what is in memory, if that is enough.
    fn locate_now(&self, joining: &Joining) -> Option<Result<Option<Start>, Refusal>> {
        if !joining.reads_log() {
            return Some(Ok(None));
        }
        let feed = joining.feed.as_ref()?;
        let (epoch, head) = feed.head()?;
        let start = |from, resync| Start { epoch, head, from, resync, page: None };
        let since = match joining.since {
            None => return Some(Ok(Some(start(None, None)))),
            Some(_) if joining.epoch.is_some_and(|asked| asked != epoch) => {
                return Some(Ok(Some(start(None, Some(ResyncReason::EpochChanged)))));
            }
            Some(since) => since,
        };
        // A cursor ahead of this feed may be right: another instance may have delivered it first.
        (since <= head && feed.recent(since).is_some()).then(|| Ok(Some(start(Some(since), None))))
    }

    async fn locate(&self, joining: &Joining) -> Located {
        let presence = async {
            match &joining.room {
                Ok(room) if joining.presence => Some(self.hub.presence.list(room).await),
                _ => None,
            }
        };
        tokio::join!(self.locate_log(joining), presence)
    }

    async fn locate_log(&self, joining: &Joining) -> Result<Option<Start>, Refusal> {
        let (Ok(room), Some(feed)) = (&joining.room, &joining.feed) else { return Ok(None) };
        if !joining.reads_log() {
            feed.reach(Stage::Attached).await;
            return Ok(None);
        }
        let unavailable = || {
            Refusal::new(ErrorCode::Unavailable, "the store does not answer; subscribe again")
                .retry_after(1000)
        };
        tokio::time::timeout(PATIENCE, feed.reach(Stage::Open)).await.map_err(|_| unavailable())?;
        if let Some(start) = self.locate_now(joining) {
            return start;
        }
        let (Some(project), Some(since)) = (room.project(), joining.since) else {
            return Err(unavailable());
        };
        let page = self.hub.pages.read(project, since).await.map_err(|error| {
            tracing::warn!(%project, %error, "cannot read the log for a subscriber");
            unavailable()
        })?;
        let resync = if since > page.head {
            Some(ResyncReason::EpochChanged)
        } else if since < page.floor {
            Some(ResyncReason::CursorTooOld)
        } else {
            None
        };
        let from = resync.is_none().then_some(since);
        Ok(Some(Start { epoch: page.epoch, head: page.head, from, resync, page: Some(page) }))
    }

    /// Answers a subscribe, then sends what each room's cursor asks for.
    fn begin(
        self: &Rc<Self>,
        conn: ConnRef,
        id: Option<&RequestId>,
        joining: Vec<Joining>,
        starts: Vec<Located>,
    ) {
        let mut answers = Vec::with_capacity(joining.len());
        let (mut reads, mut gone) = (Vec::new(), Vec::new());
        for (joining, (start, presence)) in joining.into_iter().zip(starts) {
            let room = joining.room.clone().and_then(|room| self.still_in(conn, room));
            let result = room.and_then(|room| start.map(|start| (room, start)));
            let result = match result {
                Err(error) => {
                    if let Ok(room) = &joining.room {
                        self.leave(conn, room);
                    }
                    // Whoever has a cursor has read it once, and is to purge it.
                    if joining.since.is_some() && error.code == ErrorCode::Forbidden {
                        gone.extend(joining.name.parse::<Room>().ok());
                    }
                    SubscribeResult::Refused { error }
                }
                Ok(((room, scope), start)) => {
                    let start = start.map(|start| {
                        let scope = scope.as_deref().unwrap_or_default();
                        start.under(scope, &joining).now(joining.feed.as_deref())
                    });
                    let joined = SubscribeResult::Joined {
                        seq: start.as_ref().map(|start| start.head),
                        epoch: start.as_ref().map(|start| start.epoch),
                        recovered: start.as_ref().is_some_and(|start| start.from.is_some()),
                        scope: scope.filter(|_| start.is_some()),
                        resync: start.as_ref().and_then(|start| start.resync),
                        presence,
                    };
                    if let (Some(start), Some(feed)) = (start, joining.feed.clone()) {
                        reads.push((room, joining.entity(), feed, start));
                    }
                    joined
                }
            };
            answers.push(Subscribed { room: joining.name, result });
        }
        self.answered(conn);
        self.send(conn.slot, &ServerFrame::Subscribed { id, rooms: &answers }.encode());
        gone.iter().for_each(|room| self.gone(conn.slot, room));
        // A project's room first: it covers the entities' rooms.
        reads.sort_by_key(|(_, entity, ..)| entity.is_some());
        for (room, entity, feed, start) in reads {
            self.begin_reading(conn, &room, entity, &feed, start);
        }
    }

    /// Whether the connection still is in a room it registered for: it may have lost its access, or left.
    /// With the scope of what it reads there.
    fn still_in(&self, conn: ConnRef, room: Room) -> Result<(Room, Option<Box<str>>), Refusal> {
        let permit = self.permit(conn, Command::Read(&room))?;
        let scope = permit.role().map(|role| role.scope().into());
        let state = self.state.borrow();
        let known = state.conns.get(conn.slot as usize);
        if room.project().is_none()
            || known.is_some_and(|known| known.rooms.iter().any(|joined| *joined.room == room))
        {
            return Ok((room, scope));
        }
        Err(Refusal::new(ErrorCode::NotSubscribed, "the room was left meanwhile"))
    }

    fn begin_reading(
        self: &Rc<Self>,
        conn: ConnRef,
        room: &Room,
        entity: Option<EntityKey>,
        feed: &Arc<Feed>,
        start: Start,
    ) {
        if let Some(reason) = start.resync {
            self.hub.metrics.resyncs.of(reason.into()).inc();
        }
        let Some(from) = start.from else {
            // Live from the head that was answered.
            self.set_cursor(conn, room, entity.as_ref(), start.head);
            return self.catch_up_later(conn, feed, entity, None, Some(start.head));
        };
        let covered_since =
            entity.as_ref().and_then(|_| self.covered_since(conn.slot, feed.project()));
        // What the project's room brings already is not sent again.
        let until = covered_since.map(|since| since.max(from));
        self.catch_up_later(conn, feed, entity, start.page, until);
    }

    fn set_cursor(&self, conn: ConnRef, room: &Room, entity: Option<&EntityKey>, at: Seq) {
        let mut state = self.state.borrow_mut();
        if let Some(rooms) = room.project().and_then(|project| state.registry.get_mut(project)) {
            rooms.begin_at(conn.slot, entity, at);
        }
    }
}
