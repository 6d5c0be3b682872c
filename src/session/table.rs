//! A shard's table of connections: who is in it, what is known of each, and how they leave.
//!
//! A connection is entered once its handshake is done and removed when its task ends; between the two it
//! begins to close exactly once (`Shard::close`), which takes it out of every room at once.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::shard::Shard;
use super::state::Session;
use crate::auth::{Claims, Grants};
use crate::fanout::ConnId;
use crate::fanout::outbox::Outbox;
use crate::fanout::registry::{Registry, Slot};
use crate::fanout::users::Users;
use crate::id::{ClientId, Room, UserId};
use crate::presence::Departure;
use crate::protocol::error::CloseCode;
use crate::protocol::frame;
use crate::sync::follow;
use crate::telemetry::Closed;

/// The tables of a shard.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) conns: Slab<Conn>,
    pub(super) registry: Registry,
    pub(super) users: Users,
    /// Connections with something to write.
    pub(super) dirty: Vec<Slot>,
    /// Set while a turn runs that flushes at its end.
    pub(super) in_turn: bool,
    /// Wakes the shard's loop when the first connection becomes dirty.
    pub(super) flusher: Option<Waker>,
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
    pub(super) outbox: Outbox,
    pub(super) dirty: bool,
    /// The kernel's buffer is full; the connection's task waits for it.
    pub(super) blocked: bool,
    /// A write failed; the connection's task closes it, which also takes it out of its rooms.
    pub(super) broken: bool,
    /// A frame was not taken because too much waits: what came after it would leave a hole.
    pub(super) overflowed: bool,
    /// Set once: nothing more is read or delivered, what waits is written, then the socket closes.
    pub(super) closing: Option<Closing>,
    /// Wakes the connection's task.
    pub(super) waker: Option<Waker>,
    /// Wakes what waits for an empty outbox.
    pub(super) drained: Vec<Waker>,
    pub(super) session: Session,
    pub(super) identity: Option<Box<Identity>>,
    pub(super) rooms: Vec<Joined>,
}

/// Who is on a connection.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) claims: Claims,
    pub(super) grants: Grants,
    /// The installation, if `connect` named it; otherwise a name no other connection has.
    pub(super) client: ClientId,
    pub(super) named: bool,
    /// Whether the app is in the foreground.
    pub(super) active: bool,
    /// When the session was opened.
    pub(super) opened_at: Instant,
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
    /// A user's sessions that were opened until a moment.
    pub(super) fn sessions_until(&self, user: &UserId, until: Instant) -> Vec<Slot> {
        let state = self.state.borrow();
        let opened = |slot: &Slot| {
            let identity = state.conns.get(*slot as usize).and_then(|c| c.identity.as_ref());
            identity.is_some_and(|who| who.opened_at <= until)
        };
        state.users.of(user).filter(opened).collect()
    }

    /// Where a connection of this shard is; another shard's has no place here.
    pub(super) fn slot_of(&self, id: ConnId) -> Option<Slot> {
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

    /// Bytes that a connection's next message may have.
    pub(super) fn frame_bytes(&self, conn: ConnRef) -> usize {
        let limits = &self.hub.config.limits;
        let state = self.state.borrow();
        let known = state.conns.get(conn.slot as usize);
        known.map_or(limits.frame_bytes, |known| known.session.frame_bytes(limits))
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
}
