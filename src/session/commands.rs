//! Does what a connection asks: authorises it, hands it to the part it is for, and answers.
//!
//! Everything runs on the connection's shard. What cannot be answered at once goes on in a task of its
//! own, so that the connection keeps reading; its answer finds the connection again by its [`ConnRef`].

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;
use tokio::time::{Duration, Instant};

use super::shard::{Closing, ConnRef, Identity, Shard, State};
use super::state::{Step, too_fast};
use crate::auth::{Claims, Command, Grants, Permit, TokenError, authorize};
use crate::clock;
use crate::id::{ClientId, Room};
use crate::presence::Departure;
use crate::protocol::client::{
    Ack, Broadcast, Connect, PushDevice, RequestId, SetPresence, Unsubscribe, Write,
};
use crate::protocol::error::{CloseCode, ErrorCode, Refusal};
use crate::protocol::server::{Connected, ProjectGrant, RawState, ResyncReason, ServerFrame};
use crate::push::devices;
use crate::quota::Kind;
use crate::sync::follow;
use crate::sync::submission::Submission;
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
        }
    }

    fn authenticate(
        self: &Rc<Self>,
        conn: ConnRef,
        id: Option<RequestId>,
        token: String,
        connect: Option<Connect>,
    ) {
        match self.hub.auth.try_verify(&token, clock::now_s()) {
            Err(TokenError::UnknownKey) => {
                let shard = self.clone();
                spawn_local(async move {
                    let hub = &shard.hub;
                    let result = hub.auth.verify_after_refresh(&token, clock::now_s()).await;
                    if shard.is_open(conn) {
                        shard.authenticated(conn, id.as_ref(), connect.as_ref(), result);
                    }
                });
            }
            result => self.authenticated(conn, id.as_ref(), connect.as_ref(), result),
        }
    }

    fn authenticated(
        self: &Rc<Self>,
        conn: ConnRef,
        id: Option<&RequestId>,
        connect: Option<&Connect>,
        result: Result<Claims, TokenError>,
    ) {
        // What was revoked since the token was verified, this connection was not told.
        let result = result.and_then(|claims| self.not_revoked(claims));
        let claims = match result {
            Ok(claims) => claims,
            Err(error) => {
                self.hub.metrics.auth_failures.of((&error).into()).inc();
                if let Some(known) = self.state.borrow_mut().conns.get_mut(conn.slot as usize) {
                    known.session.not_authenticated();
                }
                return self.refuse(conn, id, &error.refusal());
            }
        };
        if self.identified(conn) {
            self.refresh(conn, id, claims, connect);
        } else {
            self.open(conn, claims, id, connect);
        }
    }

    fn not_revoked(&self, claims: Claims) -> Result<Claims, TokenError> {
        if self.hub.auth.revocations().revoked(&claims) {
            return Err(TokenError::Revoked);
        }
        Ok(claims)
    }

    /// Opens the session of a user whom the handshake named.
    pub(super) fn open_named(&self, conn: ConnRef, claims: Claims) {
        match self.not_revoked(claims) {
            Ok(claims) => self.open(conn, claims, None, None),
            Err(_) => self.close(conn.slot, Closing::Code(CloseCode::TokenRevoked)),
        }
    }

    fn identified(&self, conn: ConnRef) -> bool {
        let state = self.state.borrow();
        state.conns.get(conn.slot as usize).is_some_and(|known| known.identity.is_some())
    }

    /// Opens the session of a user whose token was found good.
    fn open(
        &self,
        conn: ConnRef,
        claims: Claims,
        id: Option<&RequestId>,
        connect: Option<&Connect>,
    ) {
        let user = claims.user.clone();
        let here = self.hub.relay.fanout.user_connected(&user, self.index) as usize;
        let mut state = self.state.borrow_mut();
        let State { conns, users, .. } = &mut *state;
        let Some(known) = conns.get_mut(conn.slot as usize) else { return };
        let client = connect.and_then(|c| c.client.clone()).unwrap_or_else(|| {
            ClientId::new(&format!("{:x}", conn.id)).expect("hexadecimal digits are valid")
        });
        known.session.authenticated(claims.expires_at);
        known.identity = Some(Box::new(Identity {
            grants: Grants::resolve(&claims, &self.hub.roles),
            claims,
            client,
            active: connect.and_then(|c| c.active).unwrap_or(true),
        }));
        users.add(&user, conn.slot);
        drop(state);
        if here > self.hub.config.limits.connections_per_user {
            return self.close(conn.slot, Closing::Code(CloseCode::RateLimited));
        }
        if here == 1 {
            self.hub.live.note(&user, true);
        }
        if here == 1 && !self.hub.relay.bus.is_local() {
            follow::follow_user(&self.hub.relay, user, &self.hub.runtime);
        }
        self.say_connected(conn, id);
    }

    fn introduce(&self, conn: ConnRef, id: Option<&RequestId>, connect: &Connect) {
        self.with_identity(conn, |identity| {
            if let Some(client) = &connect.client {
                identity.client = client.clone();
            }
            identity.active = connect.active.unwrap_or(identity.active);
        });
        self.say_connected(conn, id);
    }

    fn say_connected(&self, conn: ConnRef, id: Option<&RequestId>) {
        let session = format!("{:x}", conn.id);
        let frame = self.with_identity(conn, |identity| {
            let left = identity.claims.expires_at - clock::now_s();
            ServerFrame::Connected(Box::new(Connected {
                id,
                session: &session,
                user: identity.grants.user(),
                server_time: u64::try_from(clock::now_ms()).unwrap_or(0),
                ttl: u64::try_from(left).unwrap_or(0),
                ping_interval: self.hub.config.server.ping_interval.as_secs(),
                projects: identity
                    .grants
                    .projects()
                    .map(|(project, role)| (project, ProjectGrant { role: &role.name }))
                    .collect(),
                limits: &self.hub.limits,
            }))
            .encode()
        });
        if let Some(frame) = frame {
            self.send(conn.slot, &frame);
        }
    }

    /// Puts a new token in force: what it no longer grants is left at once.
    fn refresh(
        self: &Rc<Self>,
        conn: ConnRef,
        id: Option<&RequestId>,
        claims: Claims,
        connect: Option<&Connect>,
    ) {
        let same = self.with_identity(conn, |identity| *identity.grants.user() == claims.user);
        if same != Some(true) {
            let message = "a refreshed token must be of the same user; open another connection";
            return self.refuse(conn, id, &Refusal::new(ErrorCode::Forbidden, message));
        }
        let ttl = u64::try_from(claims.expires_at - clock::now_s()).unwrap_or(0);
        let (lost, regraded) = {
            let mut state = self.state.borrow_mut();
            let State { conns, registry, .. } = &mut *state;
            let Some(known) = conns.get_mut(conn.slot as usize) else { return };
            known.session.authenticated(claims.expires_at);
            let grants = Grants::resolve(&claims, &self.hub.roles);
            let (mut lost, mut regraded) = (Vec::new(), Vec::new());
            for joined in &known.rooms {
                match authorize(&grants, Command::Read(&joined.room)) {
                    Ok(permit) => {
                        if regrade(registry, conn.slot, &joined.room, &permit) {
                            regraded.push(joined.room.clone());
                        }
                    }
                    Err(_) => lost.push(joined.room.clone()),
                }
            }
            if let Some(identity) = &mut known.identity {
                (identity.grants, identity.claims) = (grants, claims);
            }
            // Who leaves a project's room reads on in the rooms of its entities: those are left first.
            lost.sort_by_key(|room| matches!(**room, Room::Project(_)));
            (lost, regraded)
        };
        for room in lost {
            self.leave(conn, &room);
            let gone = ServerFrame::Gone { room: &room, reason: "access_lost" };
            self.send(conn.slot, &gone.encode());
        }
        for room in regraded {
            self.resync(conn.slot, &room, ResyncReason::AccessChanged);
        }
        match connect {
            Some(connect) => self.introduce(conn, id, connect),
            None => self.send(conn.slot, &ServerFrame::Refreshed { id, ttl }.encode()),
        }
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
        let submitted = self
            .permit(conn, Command::Write(&write.project))
            .and_then(|permit| {
                let count = u32::try_from(write.ops.len()).unwrap_or(u32::MAX);
                self.spend(&permit, Kind::Ops, count)?;
                Ok(permit)
            })
            .and_then(|permit| {
                let client = self
                    .with_identity(conn, |identity| identity.client.clone())
                    .ok_or_else(|| Refusal::new(ErrorCode::Unauthorized, "not connected"))?;
                let limits = &self.hub.config.limits;
                let submission = Submission::read(&permit, &write.ops, client.as_str(), limits);
                let (ops, bytes, places) = submission.into_parts();
                Ok((self.hub.engine.submit(&permit, ops, bytes)?, places, permit))
            });
        let (verdicts, places, permit) = match submitted {
            Ok(submitted) => submitted,
            Err(refusal) => {
                self.answered(conn);
                return self.refuse(conn, id.as_ref(), &refusal);
            }
        };
        let (shard, project) = (self.clone(), write.project.clone());
        spawn_local(async move {
            let decided = verdicts.await.unwrap_or_else(|_| {
                Err(Refusal::new(ErrorCode::Unavailable, "the hub stopped; send it again"))
            });
            if !shard.is_open(conn) {
                return;
            }
            shard.answered(conn);
            let decided = decided.and_then(|decided| {
                shard.still_granted(conn, &permit)?;
                Ok(decided)
            });
            match decided {
                Ok(decided) => {
                    let verdicts = Submission::finish(places, decided);
                    let id = id.as_ref();
                    let frame = ServerFrame::Written { id, project: &project, verdicts: &verdicts };
                    shard.send(conn.slot, &frame.encode());
                }
                Err(refusal) => shard.refuse(conn, id.as_ref(), &refusal),
            }
        });
    }

    /// Whether the token in force now grants what an earlier one did: a verdict tells about entities.
    fn still_granted(&self, conn: ConnRef, permit: &Permit) -> Result<(), Refusal> {
        let (project, role) = permit.in_project()?;
        let now = self.permit(conn, Command::Write(project))?;
        if now.role().is_some_and(|now| now.class == role.class) {
            return Ok(());
        }
        let message = "the role changed meanwhile; send the same operations again";
        Err(Refusal::new(ErrorCode::Unavailable, message).retry_after(1))
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
        let client = self.with_identity(conn, |identity| identity.client.clone());
        let asked = self.permit(conn, Command::Own).and_then(|permit| {
            let client =
                client.ok_or_else(|| Refusal::new(ErrorCode::Unauthorized, "not connected"))?;
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
        let who = self.with_identity(conn, |identity| (identity.client.clone(), identity.active));
        if let Some((client, active)) = who {
            self.hub.acks.note(&permit, client, seq, active);
        }
        Ok(())
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

    fn with_identity<T>(&self, conn: ConnRef, with: impl FnOnce(&mut Identity) -> T) -> Option<T> {
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

/// Whether other changes of the room's log can be read now than before.
fn regrade(
    registry: &mut crate::fanout::registry::Registry,
    slot: crate::fanout::registry::Slot,
    room: &Room,
    permit: &Permit,
) -> bool {
    let (Some(project), Some(role)) = (room.project(), permit.role()) else { return false };
    let Some(rooms) = registry.get_mut(project) else { return false };
    match room {
        Room::Project(_) => rooms.set_role(slot, None, role),
        Room::Entity(_, entity) => {
            // Its type can be read: all of it, as before.
            rooms.set_role(slot, Some(entity), role);
            false
        }
        Room::Ephemeral(..) | Room::User(_) => false,
    }
}
