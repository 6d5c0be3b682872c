//! One thread's connections: what the shard is told, and what is due from time to time.
//!
//! Everything here runs on one thread, so nothing is locked and nothing is sent between tasks: the table
//! ([`super::table`]) sits in a `RefCell` that is never borrowed across an await. Frames go to the sockets
//! through [`super::delivery`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::delivery::Way;
use super::state::Tick;
use super::table::{Closing, ConnRef, State};
use crate::auth::{Claims, concerns};
use crate::clock;
use crate::fanout::registry::Slot;
use crate::fanout::{ShardQueue, ToShard};
use crate::hub::Hub;
use crate::id::{Epoch, ProjectId, Room, Seq};
use crate::protocol::error::CloseCode;
use crate::protocol::frame;
use crate::protocol::server::{ResyncReason, ServerFrame};
use crate::telemetry::Delivery;

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
    /// Where its sockets are read into.
    pub read_buffer: RefCell<Box<[u8]>>,
    /// Outbox bytes and rooms, as the metrics have them.
    reported: Cell<[i64; 2]>,
    /// The generation of revocations that every connection here was asked about.
    revocations_seen: Cell<u64>,
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
    pub async fn run(self: Rc<Self>, mut queue: ShardQueue) {
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
                    // One frame alone is written straight to the sockets: there is nothing to join.
                    let alone = count == 1 && batch[0].is_one_frame();
                    let way = if alone { Way::Direct } else { Way::Joined };
                    for message in batch.drain(..) {
                        self.take(message, way);
                    }
                    self.flush();
                }
                () = self.dirty() => self.flush(),
            }
        }
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
            ToShard::User { user, about, frame } => self.to_user(&user, &about, &frame),
            ToShard::Overflow(project) => self.overflow(&project),
            ToShard::NewEpoch(project, epoch, head) => self.new_epoch(&project, epoch, head),
            ToShard::Revoke(revocation) => {
                self.close_revoked(|claims| concerns(&revocation, claims));
            }
            ToShard::Regrant(user) => self.regrant_user(&user),
            ToShard::Disconnect(user, until) => {
                for slot in self.sessions_until(&user, until) {
                    self.close(slot, Closing::Code(CloseCode::Forbidden));
                }
            }
            ToShard::Drain => drop(tokio::task::spawn_local(self.clone().drain())),
        }
    }

    /// Looks at every connection for what is due.
    fn sweep(self: &Rc<Self>) {
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
        self.enforce_grants();
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
            let until = entity.as_ref().and_then(|_| self.covered_since(conn.slot, project));
            self.catch_up_later(conn, &feed, entity, None, until);
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
