//! One thread's connections: the table, the queue it is told things through, delivery and flushing.
//!
//! Everything here runs on one thread, so nothing is locked and nothing is sent between tasks: the table
//! sits in a `RefCell` that is never borrowed across an await. Delivery appends a shared frame to each
//! recipient's outbox and marks it dirty; all dirty outboxes are written once per turn, straight to the
//! sockets, without waking a task per recipient.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::state::{Session, Tick};
use crate::auth::{Claims, Grants, concerns};
use crate::clock;
use crate::fanout::outbox::{Flushed, Outbox};
use crate::fanout::registry::{Registry, Sink, Slot, Users};
use crate::fanout::{ConnId, ToShard};
use crate::hub::Hub;
use crate::id::{ClientId, Epoch, ProjectId, Room, Seq, UserId};
use crate::presence::Departure;
use crate::protocol::error::CloseCode;
use crate::protocol::frame;
use crate::protocol::server::{ResyncReason, ServerFrame};
use crate::sync::follow;
use crate::telemetry::{Closed, Delivery};

/// How often every connection is looked at for what is due.
const SWEEP: Duration = Duration::from_secs(1);
/// Messages taken from the queue in one turn.
const BATCH: usize = 256;
/// Bytes read from a socket at once, into one buffer for the whole shard.
const READ_BUFFER: usize = 64 << 10;

/// One thread's connections.
pub struct Shard {
    /// Its number.
    pub index: usize,
    /// What all connections share.
    pub hub: Arc<Hub>,
    pub(super) state: RefCell<State>,
    pub(super) read_buffer: RefCell<Box<[u8]>>,
    /// Outbox bytes and rooms, as the metrics have them.
    reported: Cell<[i64; 2]>,
    /// The generation of revocations that every connection here was asked about.
    revocations_seen: Cell<u64>,
}

/// The tables of a shard.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) conns: Slab<Conn>,
    pub(super) registry: Registry,
    pub(super) users: Users,
    /// Connections with something to write.
    dirty: Vec<Slot>,
    /// Set while a turn runs that flushes at its end.
    in_turn: bool,
    /// Wakes the shard's loop when the first connection becomes dirty.
    flusher: Option<Waker>,
}

/// A connection as tasks remember it across an await: the slot may be another's by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnRef {
    /// Its place in the table.
    pub slot: Slot,
    /// Its number.
    pub id: ConnId,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) ip: IpAddr,
    pub(super) socket: Rc<TcpStream>,
    outbox: Outbox,
    dirty: bool,
    /// The kernel's buffer is full; the connection's task waits for it.
    pub(super) blocked: bool,
    /// A write failed; the connection's task closes it, which also takes it out of its rooms.
    pub(super) broken: bool,
    /// A frame was not taken because too much waits: what came after it would leave a hole.
    overflowed: bool,
    /// Set once: nothing more is read or delivered, what waits is written, then the socket closes.
    pub(super) closing: Option<Closing>,
    /// Wakes the connection's task.
    pub(super) waker: Option<Waker>,
    /// Wakes what waits for an empty outbox.
    drained: Vec<Waker>,
    pub(super) session: Session,
    pub(super) identity: Option<Box<Identity>>,
    pub(super) rooms: Vec<Joined>,
}

/// Who is on a connection.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) claims: Claims,
    pub(super) grants: Grants,
    pub(super) client: ClientId,
    /// Whether the app is in the foreground.
    pub(super) active: bool,
}

/// A room a connection is in.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) room: Arc<Room>,
    pub(super) presence: bool,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// The hub says goodbye with a code.
    Code(CloseCode),
    /// The peer closed in order.
    Peer,
    /// The socket broke.
    Broken,
}

impl From<Closing> for Closed {
    fn from(why: Closing) -> Self {
        match why {
            Closing::Code(code) => code.into(),
            Closing::Peer => Self::Client,
            Closing::Broken => Self::Lost,
        }
    }
}

impl Closing {
    fn departure(self) -> Departure {
        match self {
            Self::Peer
            | Self::Code(
                CloseCode::TokenRevoked | CloseCode::Forbidden | CloseCode::Unauthorized,
            ) => Departure::Explicit,
            Self::Broken | Self::Code(_) => Departure::Lost,
        }
    }
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(index: usize, hub: Arc<Hub>) -> Rc<Self> {
        Rc::new(Self {
            index,
            hub,
            state: RefCell::default(),
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into()),
            reported: Cell::default(),
            revocations_seen: Cell::default(),
        })
    }

    /// The shard's loop: takes what it is told, flushes, sweeps. Ends with the queue.
    pub async fn run(self: Rc<Self>, mut queue: mpsc::Receiver<ToShard>) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = sweep.tick() => self.sweep(),
                count = queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    // One message alone is written straight to the sockets: there is nothing to join.
                    let way = if count == 1 { Way::Direct } else { Way::Joined };
                    for message in batch.drain(..) {
                        self.take(message, way);
                    }
                    self.flush();
                }
                () = self.dirty() => self.flush(),
            }
        }
    }

    /// Waits until a connection has something to write.
    async fn dirty(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if !state.dirty.is_empty() {
                return Poll::Ready(());
            }
            state.flusher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn take(self: &Rc<Self>, message: ToShard, way: Way) {
        match message {
            ToShard::Changes(project, changes) => {
                self.deliver(Delivery::Change, way, |registry, sink| {
                    registry.get_mut(&project).map_or(0, |rooms| rooms.deliver(&changes, sink))
                });
            }
            ToShard::Event { room, frame, except } => {
                let Some(project) = room.project() else { return };
                let except = except.and_then(|id| self.slot_of(id));
                self.deliver(Delivery::Event, way, |registry, sink| {
                    registry
                        .get(project)
                        .map_or(0, |rooms| rooms.event(&room, &frame, except, sink))
                });
            }
            ToShard::Presence(room, frame) => {
                let Some(project) = room.project() else { return };
                self.deliver(Delivery::Presence, way, |registry, sink| {
                    registry.get(project).map_or(0, |rooms| rooms.presence(&room, &frame, sink))
                });
            }
            ToShard::User { user, project, frame } => self.to_user(&user, &project, &frame),
            ToShard::Overflow(project) => self.overflow(&project),
            ToShard::NewEpoch(project, epoch, head) => self.new_epoch(&project, epoch, head),
            ToShard::Revoke(revocation) => {
                self.close_revoked(|claims| concerns(&revocation, claims));
            }
            ToShard::Disconnect(user, code) => {
                for slot in self.slots_of(&user) {
                    self.close(slot, Closing::Code(code));
                }
            }
            ToShard::Drain => drop(tokio::task::spawn_local(self.clone().drain())),
        }
    }

    /// Lets the registry hand frames to outboxes, and counts them.
    pub(super) fn deliver(
        &self,
        kind: Delivery,
        way: Way,
        deliver: impl FnOnce(&mut Registry, &mut Outboxes<'_>) -> usize,
    ) {
        let mut state = self.state.borrow_mut();
        let State { conns, registry, dirty, .. } = &mut *state;
        let mut overflowed = Vec::new();
        let limit = self.hub.config.limits.outbox_bytes;
        let mut sink = Outboxes { conns, dirty, overflowed: &mut overflowed, limit, way, bytes: 0 };
        let sent = deliver(registry, &mut sink);
        let (sent, bytes) = (sent as u64, sink.bytes as u64);
        self.hub.metrics.deliveries.of(kind).inc_by(sent);
        self.hub.metrics.delivered_bytes.inc_by(bytes);
        state.wake_flusher();
        drop(state);
        for slot in overflowed {
            self.close(slot, Closing::Code(CloseCode::SlowConsumer));
        }
    }

    /// Sends a frame about a project to those connections of a user whose token grants the project.
    fn to_user(&self, user: &UserId, project: &ProjectId, frame: &Bytes) {
        let slots: Vec<Slot> = {
            let state = self.state.borrow();
            let granted = |slot: &Slot| {
                let identity = state.conns.get(*slot as usize).and_then(|c| c.identity.as_ref());
                identity.is_some_and(|who| who.grants.role(project).is_some())
            };
            state.users.of(user).filter(granted).collect()
        };
        self.deliver(Delivery::Notification, Way::Joined, |_, sink| {
            for slot in &slots {
                sink.push(*slot, frame);
            }
            slots.len()
        });
    }

    /// Sends one connection a frame.
    pub(super) fn send(&self, slot: Slot, frame: &Bytes) {
        self.deliver(Delivery::Reply, Way::Joined, |_, sink| {
            sink.push(slot, frame);
            1
        });
    }

    fn slots_of(&self, user: &UserId) -> Vec<Slot> {
        self.state.borrow().users.of(user).collect()
    }

    /// Where a connection of this shard is; another shard's has no place here.
    fn slot_of(&self, id: ConnId) -> Option<Slot> {
        // The slot is the low half of the number a shard gives: see `insert`.
        let slot = u32::try_from(id & 0xffff_ffff).ok()?;
        let state = self.state.borrow();
        state.conns.get(slot as usize).filter(|conn| conn.id == id).map(|_| slot)
    }

    /// Whether a connection is still there and not closing.
    pub(super) fn is_open(&self, conn: ConnRef) -> bool {
        let state = self.state.borrow();
        let known = state.conns.get(conn.slot as usize);
        known.is_some_and(|known| known.id == conn.id && known.closing.is_none())
    }

    /// Enters a connection into the table.
    pub(super) fn insert(&self, socket: Rc<TcpStream>, ip: IpAddr) -> ConnRef {
        let mut state = self.state.borrow_mut();
        let entry = state.conns.vacant_entry();
        let slot = Slot::try_from(entry.key()).expect("far fewer than 2^32 connections");
        let id = self.hub.next_conn() << 32 | u64::from(slot);
        entry.insert(Conn {
            id,
            ip,
            socket,
            outbox: Outbox::default(),
            dirty: false,
            blocked: false,
            broken: false,
            overflowed: false,
            closing: None,
            waker: None,
            drained: Vec::new(),
            session: Session::new(&self.hub.config.limits, Instant::now()),
            identity: None,
            rooms: Vec::new(),
        });
        ConnRef { slot, id }
    }

    /// Begins the end of a connection: it leaves its rooms now, what waits is still written.
    pub(super) fn close(&self, slot: Slot, why: Closing) {
        let mut state = self.state.borrow_mut();
        let Some(conn) = state.conns.get_mut(slot as usize) else { return };
        if conn.closing.is_some() {
            return;
        }
        conn.closing = Some(why);
        match why {
            Closing::Code(code) => {
                if code == CloseCode::SlowConsumer {
                    conn.outbox.discard();
                }
                conn.outbox.push(frame::close(code.code(), code.reason()));
            }
            Closing::Peer => conn.outbox.push(frame::close(1000, "")),
            Closing::Broken => {}
        }
        conn.wake();
        conn.drained.drain(..).for_each(Waker::wake);
        state.mark_dirty(slot);
        drop(state);
        self.leave_all(slot, why.departure());
    }

    fn leave_all(&self, slot: Slot, departure: Departure) {
        let mut state = self.state.borrow_mut();
        let State { conns, registry, users, .. } = &mut *state;
        let Some(conn) = conns.get_mut(slot as usize) else { return };
        for Joined { room, presence } in std::mem::take(&mut conn.rooms) {
            self.leave_room(registry, conn, slot, &room, presence, departure);
        }
        if let Some(identity) = &conn.identity {
            let user = identity.grants.user();
            users.remove(user, slot);
            if self.hub.relay.fanout.user_disconnected(user, self.index) == 0 {
                self.hub.live.note(user, false);
                follow::unfollow_user(&self.hub.relay, user, &self.hub.runtime);
            }
        }
    }

    /// Takes a connection out of one room, and the shard out of a project nobody here is in any more.
    pub(super) fn leave_room(
        &self,
        registry: &mut Registry,
        conn: &Conn,
        slot: Slot,
        room: &Room,
        presence: bool,
        departure: Departure,
    ) {
        let Some(project) = room.project() else { return };
        if let Some(rooms) = registry.get_mut(project) {
            rooms.leave(slot, room);
            if registry.retire(project) {
                self.hub.relay.feeds.unwatch(project, self.index);
            }
        }
        self.hub.metrics.subscriptions.dec();
        if presence {
            self.hub.metrics.presence_members.dec();
        }
        if let Some(identity) = conn.identity.as_ref().filter(|_| presence) {
            self.hub.presence.leave(room, identity.grants.user(), conn.id, departure);
        }
    }

    /// Removes a closed connection from the table.
    pub(super) fn remove(&self, conn: ConnRef) {
        let mut state = self.state.borrow_mut();
        if state.conns.get(conn.slot as usize).is_none_or(|known| known.id != conn.id) {
            return;
        }
        let gone = state.conns.remove(conn.slot as usize);
        if state.conns.is_empty() {
            state.conns.shrink_to_fit();
        }
        drop(state);
        let why = gone.closing.unwrap_or(Closing::Broken);
        self.hub.metrics.connections.dec();
        self.hub.metrics.connections_closed.of(why.into()).inc();
        self.hub.relay.fanout.release(gone.ip);
        let reason = Closed::from(why).as_str();
        tracing::debug!(conn = conn.id, reason, "connection closed");
    }

    /// Runs a turn, then writes what it left in outboxes.
    pub(super) fn turn<T>(&self, turn: impl FnOnce() -> T) -> T {
        self.state.borrow_mut().in_turn = true;
        let result = turn();
        self.state.borrow_mut().in_turn = false;
        self.flush();
        result
    }

    /// Writes every dirty outbox once.
    fn flush(&self) {
        let mut state = self.state.borrow_mut();
        let mut dirty = std::mem::take(&mut state.dirty);
        for slot in dirty.drain(..) {
            if let Some(conn) = state.conns.get_mut(slot as usize) {
                conn.flush();
            }
        }
        // Keeps the memory for the next turn.
        if state.dirty.is_empty() {
            state.dirty = dirty;
        }
    }

    /// Waits until nothing waits for this connection; at once if it is gone.
    pub(super) async fn drained(&self, conn: ConnRef) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            match state.conns.get_mut(conn.slot as usize) {
                Some(known)
                    if known.id == conn.id
                        && known.closing.is_none()
                        && known.outbox.bytes() > 0 =>
                {
                    known.drained.push(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Looks at every connection for what is due.
    fn sweep(&self) {
        let (now, now_s) = (Instant::now(), clock::now_s());
        let config = &self.hub.config;
        let mut due = Vec::new();
        let mut waiting = 0;
        for (slot, conn) in &mut self.state.borrow_mut().conns {
            waiting += conn.outbox.bytes();
            if conn.closing.is_none() {
                match conn.session.tick(now, now_s, &config.server, &config.auth) {
                    Tick::Idle => {}
                    tick => due.push((Slot::try_from(slot).expect("slots are u32"), tick)),
                }
            }
        }
        self.report(waiting, self.state.borrow().registry.rooms());
        self.enforce_revocations();
        for (slot, tick) in due {
            match tick {
                Tick::Idle => {}
                Tick::Ping => self.send(slot, &Bytes::from_static(frame::PING)),
                Tick::Expiring(ttl) => {
                    self.send(slot, &ServerFrame::TokenExpiring { ttl }.encode());
                }
                Tick::Close(code) => self.close(slot, Closing::Code(code)),
            }
        }
    }

    /// Brings the gauges that all shards share up to date with this one's part.
    fn report(&self, waiting: usize, rooms: usize) {
        let now = [waiting, rooms].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let before = self.reported.replace(now);
        self.hub.metrics.outbox_bytes.inc_by(now[0] - before[0]);
        self.hub.metrics.rooms.inc_by(now[1] - before[1]);
    }

    fn close_revoked(&self, is_revoked: impl Fn(&Claims) -> bool) {
        let concerned: Vec<Slot> = self
            .state
            .borrow()
            .conns
            .iter()
            .filter(|(_, conn)| conn.identity.as_ref().is_some_and(|who| is_revoked(&who.claims)))
            .map(|(slot, _)| Slot::try_from(slot).expect("slots are u32"))
            .collect();
        for slot in concerned {
            self.close(slot, Closing::Code(CloseCode::TokenRevoked));
        }
    }

    /// Closes every connection whose token was revoked, if anything was since it was last asked: what
    /// the shard was not told because its queue was full.
    fn enforce_revocations(&self) {
        let revocations = self.hub.auth.revocations();
        let generation = revocations.generation();
        if self.revocations_seen.replace(generation) != generation {
            self.close_revoked(|claims| revocations.revoked(claims));
        }
    }

    /// Live changes were missed because the queue was full: everyone reads on from their cursor.
    fn overflow(self: &Rc<Self>, project: &ProjectId) {
        let mut state = self.state.borrow_mut();
        let State { conns, registry, .. } = &mut *state;
        let Some(rooms) = registry.get_mut(project) else { return };
        let feed = rooms.feed.clone();
        let interrupted = rooms.interrupt();
        let refs: Vec<_> = interrupted
            .into_iter()
            .filter_map(|(slot, entity)| {
                conns.get(slot as usize).map(|conn| (ConnRef { slot, id: conn.id }, entity))
            })
            .collect();
        drop(state);
        for (conn, entity) in refs {
            self.catch_up_later(conn, &feed, entity, None, None);
        }
    }

    /// The sequence was replaced: cursors are void.
    fn new_epoch(&self, project: &ProjectId, epoch: Epoch, head: Seq) {
        tracing::warn!(%project, %epoch, %head, "the project's sequence was replaced");
        let restarted = match self.state.borrow_mut().registry.get_mut(project) {
            Some(rooms) => rooms.restart(head),
            None => return,
        };
        for (slot, room) in restarted {
            self.resync(slot, &room, ResyncReason::EpochChanged);
        }
    }

    pub(super) fn resync(&self, slot: Slot, room: &Room, reason: ResyncReason) {
        self.hub.metrics.resyncs.of(reason.into()).inc();
        self.send(slot, &ServerFrame::Resync { room, reason }.encode());
    }

    /// Sends everyone away, spread over the configured time, each with a time of its own to come back.
    async fn drain(self: Rc<Self>) {
        const STEP: Duration = Duration::from_millis(50);
        let spread = self.hub.config.server.drain_spread;
        let refs: Vec<ConnRef> = {
            let state = self.state.borrow();
            let slot = |slot| Slot::try_from(slot).expect("slots are u32");
            state.conns.iter().map(|(s, conn)| ConnRef { slot: slot(s), id: conn.id }).collect()
        };
        let steps = (spread.as_millis() / STEP.as_millis()).max(1);
        let per_step = refs.len().div_ceil(usize::try_from(steps).unwrap_or(usize::MAX)).max(1);
        let mut pace = interval(STEP);
        for some in refs.chunks(per_step) {
            pace.tick().await;
            for conn in some.iter().filter(|conn| self.is_open(**conn)) {
                let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
                let goodbye = ServerFrame::Goodbye {
                    reason: CloseCode::ShuttingDown.reason(),
                    reconnect_in_ms: rand::random_range(0..=spread_ms.max(100)),
                    resume: true,
                };
                self.send(conn.slot, &goodbye.encode());
                self.close(conn.slot, Closing::Code(CloseCode::ShuttingDown));
            }
        }
    }
}

impl State {
    fn mark_dirty(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot as usize)
            && !std::mem::replace(&mut conn.dirty, true)
        {
            self.dirty.push(slot);
        }
        self.wake_flusher();
    }

    fn wake_flusher(&mut self) {
        if !self.in_turn
            && !self.dirty.is_empty()
            && let Some(flusher) = self.flusher.take()
        {
            flusher.wake();
        }
    }
}

impl Conn {
    /// Writes what waits, as far as the kernel takes it.
    pub(super) fn flush(&mut self) {
        self.dirty = false;
        if self.blocked || self.broken || self.closing == Some(Closing::Broken) {
            return;
        }
        match self.outbox.flush(&self.socket) {
            Flushed::Empty => self.drained.drain(..).for_each(Waker::wake),
            Flushed::Blocked => self.block(),
            Flushed::Broken => self.broke(),
        }
    }

    fn block(&mut self) {
        self.blocked = true;
        self.wake();
    }

    fn broke(&mut self) {
        self.broken = true;
        self.outbox = Outbox::default();
        self.wake();
    }

    pub(super) fn pending(&self) -> usize {
        self.outbox.bytes()
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Appends frames to outboxes.
pub(super) struct Outboxes<'a> {
    conns: &'a mut Slab<Conn>,
    dirty: &'a mut Vec<Slot>,
    overflowed: &'a mut Vec<Slot>,
    limit: usize,
    way: Way,
    bytes: usize,
}

/// How frames go to the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// At once, if nothing waits before them.
    Direct,
    /// With what else this turn brings, in one write.
    Joined,
}

impl Sink for Outboxes<'_> {
    fn push(&mut self, slot: Slot, frame: &Bytes) {
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        if conn.closing.is_some() || conn.broken || conn.overflowed {
            return;
        }
        let too_much = |conn: &Conn| {
            // A frame of any size may wait alone.
            conn.outbox.bytes() > 0 && conn.outbox.bytes() + frame.len() > self.limit
        };
        if too_much(conn) {
            // Perhaps it only was not this turn's flush yet.
            conn.flush();
            if too_much(conn) {
                conn.overflowed = true;
                self.overflowed.push(slot);
                return;
            }
        }
        self.bytes += frame.len();
        if self.way == Way::Direct && !conn.blocked && conn.outbox.bytes() == 0 {
            match conn.outbox.write_through(&conn.socket, frame) {
                Flushed::Empty => return,
                Flushed::Blocked => conn.block(),
                Flushed::Broken => conn.broke(),
            }
            return;
        }
        conn.outbox.push(frame.clone());
        if !std::mem::replace(&mut conn.dirty, true) {
            self.dirty.push(slot);
        }
    }
}
