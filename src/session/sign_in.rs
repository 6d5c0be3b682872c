//! Who is on a connection: a token is verified, a session opened, a new token put in force.

use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::Instant;
use uuid::Uuid;

use super::shard::Shard;
use super::table::{Closing, ConnRef, Identity, State};
use crate::auth::{Claims, TokenError};
use crate::clock;
use crate::id::ClientId;
use crate::protocol::client::{Connect, RequestId};
use crate::protocol::error::{CloseCode, ErrorCode, Refusal};
use crate::protocol::server::{Connected, ProjectGrant, ServerFrame};
use crate::sync::follow;
use crate::telemetry::RateLimit;

impl Shard {
    pub(super) fn authenticate(
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
        let named = connect.and_then(|c| c.client.clone());
        known.session.authenticated(claims.expires_at);
        known.identity = Some(Box::new(Identity {
            grants: self.hub.access.grants(&claims),
            claims,
            named: named.is_some(),
            client: named.unwrap_or_else(nameless),
            active: connect.and_then(|c| c.active).unwrap_or(true),
            opened_at: Instant::now(),
        }));
        users.add(&user, conn.slot);
        drop(state);
        if here > self.hub.config.limits.connections_per_user {
            self.hub.metrics.rate_limited.of(RateLimit::ConnectionsPerUser).inc();
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

    pub(super) fn introduce(&self, conn: ConnRef, id: Option<&RequestId>, connect: &Connect) {
        self.with_identity(conn, |identity| {
            if let Some(client) = &connect.client {
                (identity.client, identity.named) = (client.clone(), true);
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
        {
            let mut state = self.state.borrow_mut();
            let Some(known) = state.conns.get_mut(conn.slot as usize) else { return };
            known.session.authenticated(claims.expires_at);
            if let Some(identity) = &mut known.identity {
                identity.claims = claims;
            }
        }
        self.regrant(conn);
        match connect {
            Some(connect) => self.introduce(conn, id, connect),
            None => self.send(conn.slot, &ServerFrame::Refreshed { id, ttl }.encode()),
        }
    }
}

/// What stands for the installation of a connection that does not name it: over all instances and restarts
/// no other is called so, or one would count as the author of the other's edits.
fn nameless() -> ClientId {
    ClientId::new(&Uuid::new_v4().to_string()).expect("a UUID is a client's name")
}
