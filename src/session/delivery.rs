//! From a frame to sockets: into each recipient's outbox, and out of all of them once per turn.
//!
//! Delivery appends a shared frame to outboxes and marks them dirty; all dirty outboxes are written at the
//! end of the turn, straight to the sockets, without waking a task per recipient. An outbox that would
//! grow beyond `limits.outbox_bytes` ends its connection: it resumes from its cursor.

use std::future::poll_fn;
use std::task::{Poll, Waker};

use bytes::Bytes;
use slab::Slab;

use super::shard::Shard;
use super::table::{Closing, Conn, ConnRef, State};
use crate::fanout::outbox::{Flushed, Outbox};
use crate::fanout::registry::{Registry, Sink, Slot};
use crate::id::{ProjectId, UserId};
use crate::protocol::error::CloseCode;
use crate::telemetry::{Delivery, Dropped};

/// How frames go to the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// At once, if nothing waits before them.
    Direct,
    /// With what else this turn brings, in one write.
    Joined,
}

impl Shard {
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
        self.hub.metrics.drops.of(Dropped::Outbox).inc_by(overflowed.len() as u64);
        for slot in overflowed {
            self.close(slot, Closing::Code(CloseCode::SlowConsumer));
        }
    }

    /// Sends a frame about a project to those connections of a user whose token grants the project.
    pub(super) fn to_user(&self, user: &UserId, project: &ProjectId, frame: &Bytes) {
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

    /// Runs a turn, then writes what it left in outboxes.
    pub(super) fn turn<T>(&self, turn: impl FnOnce() -> T) -> T {
        self.state.borrow_mut().in_turn = true;
        let result = turn();
        self.state.borrow_mut().in_turn = false;
        self.flush();
        result
    }

    /// Writes every dirty outbox once.
    pub(super) fn flush(&self) {
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

    /// Waits until a connection has something to write.
    pub(super) async fn dirty(&self) {
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
}

impl State {
    pub(super) fn mark_dirty(&mut self, slot: Slot) {
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

    pub(super) fn wake(&mut self) {
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
