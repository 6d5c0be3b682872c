//! Does what a connection asks: authorises it, hands it to the part it is for, and answers.
//!
//! Everything runs on the connection's shard. What cannot be answered at once goes on in a task of its
//! own, so that the connection keeps reading; its answer finds the connection again by its [`ConnRef`].

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;
use tokio::time::{Duration, Instant};

use super::shard::Shard;
use super::state::{Step, too_fast};
use super::table::{Closing, ConnRef, Identity, State};
use crate::auth::{Command, Permit, authorize};
use crate::id::{ClientId, Room};
use crate::presence::Departure;
use crate::protocol::client::{
    Ack, Broadcast, PushDevice, RequestId, SetPresence, Unsubscribe, Write,
};
use crate::protocol::error::{CloseCode, ErrorCode, Refusal};
use crate::protocol::frame;
use crate::protocol::server::{RawState, ServerFrame};
use crate::push::devices;
use crate::quota::Kind;
use crate::telemetry::RateLimit;

impl Shard {
    /// Handles one text frame.
    pub(super) fn handle(self: &Rc<Self>, conn: ConnRef, text: &str, now: Instant) {
        let step = match self.state.borrow_mut().conns.get_mut(conn.slot as usize) {
            Some(known) => known.session.frame(text, now, &self.hub.config.limits),
            None => return,
        };
        match step {
            Step::Authenticate { id, token, connect } => {
                self.authenticate(conn, id, token, connect)
            }
            Step::Introduce(id, connect) => self.introduce(conn, id.as_ref(), &connect),
            Step::Subscribe(id, subscribe) => self.subscribe(conn, id, subscribe),
            Step::Unsubscribe(id, unsubscribe) => self.unsubscribe(conn, id.as_ref(), &unsubscribe),
            Step::Write(id, write) => self.write(conn, id, &write),
            Step::Broadcast(id, broadcast) => {
                let result = self.broadcast(conn, &broadcast);
                self.done(conn, id.as_ref(), result);
            }
            Step::Presence(id, presence) => {
                let result = self.set_presence(conn, presence);
                self.done(conn, id.as_ref(), result);
            }
            Step::Ack(id, ack) => {
                let result = self.ack(conn, &ack);
                self.done(conn, id.as_ref(), result);
            }
            Step::PushDevice(id, device) => self.push_device(conn, id, device),
            Step::Pong(id) => self.send(conn.slot, &ServerFrame::Pong { id: id.as_ref() }.encode()),
            Step::Refuse(id, refusal) => {
                if matches!(refusal.code, ErrorCode::RateLimited | ErrorCode::LimitExceeded) {
                    self.hub.metrics.rate_limited.of(RateLimit::Connection).inc();
                }
                self.refuse(conn, id.as_ref(), &refusal);
            }
            Step::Close(code) => self.flooded(conn, code),
        }
    }

    /// Answers a ping of the WebSocket's own.
    pub(super) fn pinged(&self, conn: ConnRef, payload: &[u8], now: Instant) {
        let answer = match self.state.borrow_mut().conns.get_mut(conn.slot as usize) {
            Some(known) => known.session.ping(now),
            None => return,
        };
        match answer {
            Ok(true) => self.send(conn.slot, &frame::pong(payload)),
            Ok(false) => {
                self.hub.metrics.rate_limited.of(RateLimit::Connection).inc();
            }
            Err(code) => self.flooded(conn, code),
        }
    }

    fn flooded(&self, conn: ConnRef, code: CloseCode) {
        self.hub.metrics.rate_limited.of(RateLimit::Connection).inc();
        self.close(conn.slot, Closing::Code(code));
    }

    fn unsubscribe(
        self: &Rc<Self>,
        conn: ConnRef,
        id: Option<&RequestId>,
        unsubscribe: &Unsubscribe,
    ) {
        for room in unsubscribe.rooms.iter().filter_map(|name| name.parse::<Room>().ok()) {
            self.leave(conn, &room);
        }
        self.send(conn.slot, &ServerFrame::Unsubscribed { id }.encode());
    }

    /// Takes a connection out of a room it is in.
    pub(super) fn leave(self: &Rc<Self>, conn: ConnRef, room: &Room) {
        let mut state = self.state.borrow_mut();
        let State { conns, registry, .. } = &mut *state;
        let Some(known) = conns.get_mut(conn.slot as usize) else { return };
        let Some(at) = known.rooms.iter().position(|joined| *joined.room == *room) else { return };
        let joined = known.rooms.swap_remove(at);
        let entities: Vec<_> = known
            .rooms
            .iter()
            .filter_map(|joined| match (&*joined.room, room) {
                (Room::Entity(of, entity), Room::Project(project)) if of == project => {
                    Some(entity.clone())
                }
                _ => None,
            })
            .collect();
        let mut interrupted = None;
        if let (Room::Project(project), Some(rooms)) =
            (room, room.project().and_then(|p| registry.get_mut(p)))
            && rooms.leave_project(conn.slot, entities.iter())
        {
            interrupted = Some((project.clone(), rooms.feed.clone()));
        }
        let presence = joined.presence;
        self.leave_room(registry, known, conn.slot, room, presence, Departure::Explicit);
        drop(state);
        if let Some((_, feed)) = interrupted {
            for entity in entities {
                self.catch_up_later(conn, &feed, Some(entity), None, None);
            }
        }
    }

    fn write(self: &Rc<Self>, conn: ConnRef, id: Option<RequestId>, write: &Write) {
        let project = write.project.as_ref().expect("a decoded frame has its project");
        let submitted = self.permit(conn, Command::Write(project)).and_then(|permit| {
            let client = self
                .with_identity(conn, |identity| identity.client.clone())
                .ok_or_else(|| Refusal::new(ErrorCode::Unauthorized, "not connected"))?;
            write.check(self.hub.config.limits.ops_per_write).inspect_err(|refusal| {
                if refusal.code == ErrorCode::LimitExceeded {
                    self.hub.metrics.rate_limited.of(RateLimit::Connection).inc();
                }
                self.hub.note_refused(&permit, client.as_str(), Some(write), refusal);
            })?;
            let count = u32::try_from(write.ops.len()).unwrap_or(u32::MAX);
            self.spend(&permit, Kind::Ops, count)?;
            let (verdicts, places) = self.hub.engine.write(&permit, client.as_str(), write)?;
            Ok((verdicts, places, permit))
        });
        let (verdicts, places, permit) = match submitted {
            Ok(submitted) => submitted,
            Err(refusal) => {
                self.answered(conn);
                return self.refuse(conn, id.as_ref(), &refusal);
            }
        };
        let (shard, project) = (self.clone(), project.clone());
        spawn_local(async move {
            let decided = verdicts.await.unwrap_or_else(|_| {
                Err(Refusal::new(ErrorCode::Unavailable, "the hub stopped; send it again"))
            });
            if !shard.is_open(conn) {
                return;
            }
            shard.answered(conn);
            let decided = decided.and_then(|decided| {
                permit.still(&shard.permit(conn, Command::Write(&project))?)?;
                Ok(decided)
            });
            match decided {
                Ok(decided) => {
                    let verdicts = places.fill(decided);
                    let id = id.as_ref();
                    let frame = ServerFrame::Written { id, project: &project, verdicts: &verdicts };
                    shard.send(conn.slot, &frame.encode());
                }
                Err(refusal) => shard.refuse(conn, id.as_ref(), &refusal),
            }
        });
    }

    fn broadcast(&self, conn: ConnRef, broadcast: &Broadcast) -> Result<(), Refusal> {
        let permit = self.permit(conn, Command::Broadcast(&broadcast.room))?;
        self.spend(&permit, Kind::Broadcasts, 1)?;
        let frame = ServerFrame::Event {
            room: &broadcast.room,
            event: &broadcast.event,
            data: broadcast.data.as_deref(),
            from: Some(permit.user()),
        }
        .encode();
        self.hub.relay.event(&Arc::new(broadcast.room.clone()), &frame, Some(conn.id));
        Ok(())
    }

    fn set_presence(&self, conn: ConnRef, presence: SetPresence) -> Result<(), Refusal> {
        let permit = self.permit(conn, Command::Presence(&presence.room))?;
        let joined = {
            let state = self.state.borrow();
            state.conns.get(conn.slot as usize).is_some_and(|known| {
                known.rooms.iter().any(|joined| joined.presence && *joined.room == presence.room)
            })
        };
        if !joined {
            return Err(Refusal::new(
                ErrorCode::NotSubscribed,
                "subscribe to the room with `presence: true` first",
            ));
        }
        let state = RawState(presence.state.into());
        self.hub.presence.update(&presence.room, permit.user(), conn.id, state);
        Ok(())
    }

    fn push_device(self: &Rc<Self>, conn: ConnRef, id: Option<RequestId>, device: PushDevice) {
        let client = self.installation(conn);
        let asked = self.permit(conn, Command::Own).and_then(|permit| {
            let message = "name this installation first: send `connect` with its `client`";
            let client = client.ok_or_else(|| Refusal::new(ErrorCode::BadRequest, message))?;
            Ok((permit, client))
        });
        let shard = self.clone();
        spawn_local(async move {
            let result = match asked {
                Ok((permit, client)) => {
                    devices::register(&shard.hub, &permit, client, device).await.map(|_| ())
                }
                Err(refusal) => Err(refusal),
            };
            if shard.is_open(conn) {
                shard.answered(conn);
                shard.done(conn, id.as_ref(), result);
            }
        });
    }

    fn ack(&self, conn: ConnRef, ack: &Ack) -> Result<(), Refusal> {
        if let Some(active) = ack.active {
            self.with_identity(conn, |identity| identity.active = active);
        }
        let (Some(project), Some(seq)) = (&ack.project, ack.seq) else {
            return match (ack.active, &ack.project, ack.seq) {
                (Some(_), None, None) => Ok(()),
                _ => Err(Refusal::new(
                    ErrorCode::BadRequest,
                    "`ack` needs `project` and `seq`, or `active` alone",
                )),
            };
        };
        let permit = self.permit(conn, Command::Ack(project))?;
        let active = self.with_identity(conn, |identity| identity.active).unwrap_or(false);
        self.hub.acks.note(&permit, self.installation(conn), seq, active);
        Ok(())
    }

    /// The installation on a connection, if it was named.
    fn installation(&self, conn: ConnRef) -> Option<ClientId> {
        self.with_identity(conn, |identity| identity.named.then(|| identity.client.clone()))?
    }

    /// Takes from what the user may do per second, over all instances.
    fn spend(&self, permit: &Permit, kind: Kind, count: u32) -> Result<(), Refusal> {
        self.hub.quota.take(permit.user(), kind, count).map_err(|ms| {
            self.hub.metrics.rate_limited.of(RateLimit::User).inc();
            too_fast(Duration::from_millis(ms))
        })
    }

    /// Asks whether the connection's token grants a command.
    pub(super) fn permit(&self, conn: ConnRef, command: Command<'_>) -> Result<Permit, Refusal> {
        let state = self.state.borrow();
        let identity =
            state.conns.get(conn.slot as usize).and_then(|known| known.identity.as_ref());
        match identity {
            Some(identity) => authorize(&identity.grants, command),
            None => Err(Refusal::new(ErrorCode::Unauthorized, "send `connect` first")),
        }
    }

    pub(super) fn with_identity<T>(
        &self,
        conn: ConnRef,
        with: impl FnOnce(&mut Identity) -> T,
    ) -> Option<T> {
        let mut state = self.state.borrow_mut();
        let known = state.conns.get_mut(conn.slot as usize).filter(|known| known.id == conn.id)?;
        known.identity.as_mut().map(|identity| with(identity))
    }

    /// One request less that waits for its answer.
    pub(super) fn answered(&self, conn: ConnRef) {
        if let Some(known) = self.state.borrow_mut().conns.get_mut(conn.slot as usize) {
            known.session.answered();
        }
    }

    /// Answers a request that has no richer answer; without an id only a refusal is told.
    fn done(&self, conn: ConnRef, id: Option<&RequestId>, result: Result<(), Refusal>) {
        match (result, id) {
            (Ok(()), Some(id)) => self.send(conn.slot, &ServerFrame::Ok { id }.encode()),
            (Ok(()), None) => {}
            (Err(refusal), id) => self.refuse(conn, id, &refusal),
        }
    }

    /// Answers a request with an error; the connection lives.
    pub(super) fn refuse(&self, conn: ConnRef, id: Option<&RequestId>, refusal: &Refusal) {
        let frame = ServerFrame::Error { id, refusal }.encode();
        self.send(conn.slot, &frame);
    }
}
