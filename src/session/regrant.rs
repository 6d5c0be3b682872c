//! A user may do more or less than before: a new token is in force, or a membership of theirs changed.
//!
//! One act for both. The rooms that are not granted any more are left, in the turn in which that is
//! known; the readers of the others go on with the new role from the next frame on, and the client is
//! told what to purge and what to fetch. Frames that wait in the outbox come before those that tell.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::shard::Shard;
use super::table::{ConnRef, State};
use crate::auth::{Command, Grants, Permit, Role, authorize};
use crate::fanout::registry::{Registry, Slot};
use crate::id::{ProjectId, Room, UserId};
use crate::protocol::server::{GoneReason, Loss, ProjectGrant, ResyncReason, ServerFrame};

/// What is to be told of a room that goes on.
struct Regraded {
    room: Arc<Room>,
    loss: Loss,
    /// Whether something is seen now that was not.
    gained: bool,
}

impl Shard {
    /// Asks anew what a user's connections are granted.
    pub(super) fn regrant_user(self: &Rc<Self>, user: &UserId) {
        let conns: Vec<_> = {
            let state = self.state.borrow();
            let conn = |slot| state.conns.get(slot as usize).map(|c| ConnRef { slot, id: c.id });
            state.users.of(user).filter_map(conn).collect()
        };
        for conn in conns {
            if let Some(before) = self.regrant(conn) {
                self.say_access(conn, &before);
            }
        }
    }

    /// Asks anew for everyone, if the shard was not told of somebody because its queue was full.
    pub(super) fn enforce_grants(self: &Rc<Self>) {
        if self.hub.relay.fanout.shards()[self.index].take_regrant_all() {
            let users: Vec<_> = self.state.borrow().users.all().cloned().collect();
            users.iter().for_each(|user| self.regrant_user(user));
        }
    }

    /// Puts in force what the claims of a connection's token grant now; returns what they did before.
    pub(super) fn regrant(self: &Rc<Self>, conn: ConnRef) -> Option<Grants> {
        let (mut lost, mut regraded) = (Vec::new(), Vec::new());
        let before = {
            let mut state = self.state.borrow_mut();
            let State { conns, registry, .. } = &mut *state;
            let known = conns.get_mut(conn.slot as usize).filter(|known| known.id == conn.id)?;
            let identity = known.identity.as_mut()?;
            let grants = self.hub.access.grants(&identity.claims);
            for joined in &known.rooms {
                match authorize(&grants, Command::Read(&joined.room)) {
                    Ok(permit) => {
                        regraded.extend(regrade(registry, conn.slot, &joined.room, &permit));
                    }
                    Err(_) => lost.push(joined.room.clone()),
                }
            }
            std::mem::replace(&mut identity.grants, grants)
        };
        // Who leaves a project's room reads on in the rooms of its entities: those are left first.
        lost.sort_by_key(|room| matches!(**room, Room::Project(_)));
        for room in lost {
            self.leave(conn, &room);
            self.gone(conn.slot, &room);
        }
        for Regraded { room, loss, gained } in regraded {
            if !loss.is_empty() {
                let reason = GoneReason::ScopeChanged;
                let gone = ServerFrame::Gone { room: &room, reason, loss: Some(&loss) };
                self.send(conn.slot, &gone.encode());
            }
            if gained {
                self.resync(conn.slot, &room, ResyncReason::ScopeChanged);
            }
        }
        Some(before)
    }

    /// Tells a connection that it may not read a room any more.
    pub(super) fn gone(&self, slot: Slot, room: &Room) {
        let gone = ServerFrame::Gone { room, reason: GoneReason::AccessLost, loss: None };
        self.send(slot, &gone.encode());
    }

    /// Tells a connection in which projects its role is not what it was.
    fn say_access(&self, conn: ConnRef, before: &Grants) {
        let frame = self.with_identity(conn, |identity| {
            let mut projects: BTreeMap<&ProjectId, Option<ProjectGrant<'_>>> = BTreeMap::new();
            for (project, role) in identity.grants.projects() {
                if before.role(project).is_none_or(|before| before.name != role.name) {
                    projects.insert(project, Some(ProjectGrant { role: &role.name }));
                }
            }
            let lost = before.projects().filter(|(p, _)| identity.grants.role(p).is_none());
            projects.extend(lost.map(|(project, _)| (project, None)));
            (!projects.is_empty()).then(|| ServerFrame::Access { projects }.encode())
        });
        if let Some(frame) = frame.flatten() {
            self.send(conn.slot, &frame);
        }
    }
}

/// Lets a room's reader go on with another role; what is to be told of it, if anything.
fn regrade(
    registry: &mut Registry,
    slot: Slot,
    room: &Arc<Room>,
    permit: &Permit,
) -> Option<Regraded> {
    let (project, role) = permit.in_project().ok()?;
    let rooms = registry.get_mut(project)?;
    let (loss, gain) = match &**room {
        Room::Project(_) => {
            let before = rooms.set_role(slot, None, role)?;
            (before.loss(role), role.loss(&before))
        }
        Room::Entity(_, entity) => {
            let before = rooms.set_role(slot, Some(entity), role)?;
            let kind = &entity.kind;
            (hidden_now(&before, role, kind), hidden_now(role, &before, kind))
        }
        Room::Ephemeral(..) | Room::User(_) => return None,
    };
    let gained = !gain.is_empty();
    (gained || !loss.is_empty()).then(|| Regraded { room: room.clone(), loss, gained })
}

/// What is lost of one readable type.
fn hidden_now(before: &Role, now: &Role, kind: &crate::id::EntityType) -> Loss {
    let fields = now.hidden(kind).iter().filter(|field| !before.hides(kind, field));
    let fields: Vec<_> = fields.map(ToString::to_string).collect();
    let mut loss = Loss::default();
    if !fields.is_empty() {
        loss.fields.insert(kind.to_string(), fields);
    }
    loss
}
