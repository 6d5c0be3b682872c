//! Authority as a value: a [`Permit`] says who may do what where, and only [`authorize`],
//! [`Permit::backend`] and [`Permit::on_behalf`] make one.
//!
//! Refusals for what a token does not grant are all the same, whether or not the thing exists.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::policy::{Grants, Role};
use crate::config;
use crate::id::{EntityType, ProjectId, Room, UserId};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::{Op, OpKind};

/// What a connection asks to do.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// Hear a room, or read what it carries.
    Read(&'a Room),
    /// Write to a project's log. Each operation is then asked about on its own ([`Permit::allows`]), so
    /// that one that is refused gets its verdict and spoils no other.
    Write(&'a ProjectId),
    /// Say something to an ephemeral room.
    Broadcast(&'a Room),
    /// Appear in a room.
    Presence(&'a Room),
    /// Report what was stored of a project.
    Ack(&'a ProjectId),
    /// Look after one's own inbox and devices.
    Own,
}

/// What a permit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// [`Command::Read`].
    Read,
    /// [`Command::Write`].
    Write,
    /// The same, for an administrator who says under which role.
    OnBehalf,
    /// [`Command::Broadcast`].
    Broadcast,
    /// [`Command::Presence`].
    Presence,
    /// [`Command::Ack`].
    Ack,
    /// [`Command::Own`].
    Own,
    /// Anything in the project, for a backend.
    Backend,
}

/// Proof that a command was allowed.
#[derive(Debug, Clone)]
#[must_use]
pub struct Permit {
    act: Act,
    user: UserId,
    /// The device the token was issued to, for the log of requests.
    device: Option<String>,
    /// None for the user's own inbox, which belongs to no project.
    scope: Option<(ProjectId, Arc<Role>)>,
    /// Whether the role is a stored one, not the token's.
    stored: bool,
}

impl Permit {
    /// The permit of a backend: everything in `project`, in the name of `source`.
    pub fn backend(_: &IngestAuthority, project: ProjectId, source: UserId) -> Self {
        let scope = Some((project, Role::backend()));
        Self { act: Act::Backend, user: source, device: None, scope, stored: false }
    }

    /// The permit of an administrator to write what a user had sent, with no more than `role` grants.
    pub fn on_behalf(_: &AdminPermit, project: ProjectId, user: UserId, role: Arc<Role>) -> Self {
        Self { act: Act::OnBehalf, user, device: None, scope: Some((project, role)), stored: false }
    }

    /// What it is for.
    #[must_use]
    pub fn act(&self) -> Act {
        self.act
    }

    /// Who acts: the user, or a backend's source.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The device the user's token was issued to.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// The project; none if the permit is for the user's own inbox.
    #[must_use]
    pub fn project(&self) -> Option<&ProjectId> {
        self.scope.as_ref().map(|(project, _)| project)
    }

    /// Whether the role is a stored one: once that is forgotten, the token's own is in force.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// The role in the project; none if the permit is for the user's own inbox.
    #[must_use]
    pub fn role(&self) -> Option<&Arc<Role>> {
        self.scope.as_ref().map(|(_, role)| role)
    }

    /// The project and the role in it, for code that acts on a project only.
    ///
    /// # Errors
    /// `forbidden`, if the permit is for an inbox.
    pub fn in_project(&self) -> Result<(&ProjectId, &Arc<Role>), Refusal> {
        self.scope.as_ref().map(|(project, role)| (project, role)).ok_or_else(forbidden)
    }

    /// Whether what was found under this permit may be told under `now`: it tells about entities.
    ///
    /// # Errors
    /// `unavailable`, if the role sees something else now.
    pub fn still(&self, now: &Self) -> Result<(), Refusal> {
        let class = |permit: &Self| permit.role().map(|role| role.class);
        if class(self) == class(now) {
            return Ok(());
        }
        Err(role_changed())
    }

    /// Whether it covers this operation. Reading is part of it: a conflict is answered with the entity.
    ///
    /// # Errors
    /// `forbidden`, with what the role lacks.
    pub fn allows(&self, op: &Op) -> Result<(), Refusal> {
        if !matches!(self.act, Act::Write | Act::OnBehalf | Act::Backend) {
            return Err(forbidden());
        }
        let (_, role) = self.in_project()?;
        let entity_type = &op.entity_type;
        let (may, verb) = match op.kind {
            OpKind::Create | OpKind::Update | OpKind::Resolve => {
                (role.can_write(entity_type), "write")
            }
            OpKind::Delete => (role.can_delete(entity_type), "delete"),
        };
        if !may || !role.can_read(entity_type) {
            let message = format!("the role `{}` may not {verb} `{entity_type}`", role.name);
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        if let Some(field) = op.fields.keys().find(|field| role.hides(entity_type, field)) {
            let message =
                format!("the role `{}` may not write `{field}` of `{entity_type}`", role.name);
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        Ok(())
    }
}

/// Asks whether the holder of these grants may do this.
///
/// # Errors
/// `forbidden`, or `bad_request` for what no room of the kind can do.
pub fn authorize(grants: &Grants, command: Command<'_>) -> Result<Permit, Refusal> {
    let (act, scope) = match command {
        Command::Read(room) => (Act::Read, room_scope(grants, room)?),
        Command::Write(project) => (Act::Write, Some(project_scope(grants, project)?)),
        Command::Own => (Act::Own, None),
        Command::Ack(project) => (Act::Ack, Some(project_scope(grants, project)?)),
        Command::Presence(room) => {
            let scope = room_scope(grants, room)?;
            if scope.is_none() {
                return Err(Refusal::new(ErrorCode::BadRequest, "an inbox has no presence"));
            }
            (Act::Presence, scope)
        }
        Command::Broadcast(room) => {
            let scope = room_scope(grants, room)?;
            if !matches!(room, Room::Ephemeral(..)) {
                return Err(Refusal::new(
                    ErrorCode::BadRequest,
                    "broadcasts go to `room:{project}:{name}` only",
                ));
            }
            if let Some((_, role)) = &scope
                && !role.can_broadcast()
            {
                return Err(Refusal::new(
                    ErrorCode::Forbidden,
                    format!("the role `{}` may not broadcast", role.name),
                ));
            }
            (Act::Broadcast, scope)
        }
    };
    let device = grants.device().map(str::to_owned);
    let stored = scope.as_ref().is_some_and(|(project, _)| grants.is_stored(project));
    Ok(Permit { act, user: grants.user().clone(), device, scope, stored })
}

/// Proof of what somebody may see of their inbox: projects, each with the role they have there now.
#[derive(Debug)]
#[must_use]
pub struct InboxPermit {
    user: UserId,
    projects: Vec<(ProjectId, Arc<Role>)>,
}

impl InboxPermit {
    /// Whose inbox it is.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// The projects, and the types of entities that may be told of in each; none is every type.
    pub fn reads(&self) -> impl Iterator<Item = (&ProjectId, Option<&[EntityType]>)> {
        self.projects.iter().map(|(project, role)| (project, role.readable()))
    }
}

/// Asks for one's inbox: what came from one project, or from all that are granted.
///
/// # Errors
/// `forbidden`, if the project is not granted.
pub fn authorize_inbox(grants: &Grants, only: Option<&ProjectId>) -> Result<InboxPermit, Refusal> {
    let own = || grants.projects().map(|(project, role)| (project.clone(), Arc::clone(role)));
    let projects = match only {
        Some(project) => vec![project_scope(grants, project)?],
        None => own().collect(),
    };
    Ok(InboxPermit { user: grants.user().clone(), projects })
}

/// The refusal of what was allowed under a role the user does not have any more.
#[must_use]
pub fn role_changed() -> Refusal {
    let message = "the role changed meanwhile; send the same again";
    Refusal::new(ErrorCode::Unavailable, message).retry_after(1)
}

fn forbidden() -> Refusal {
    Refusal::new(ErrorCode::Forbidden, "the token does not grant this")
}

fn project_scope(grants: &Grants, project: &ProjectId) -> Result<(ProjectId, Arc<Role>), Refusal> {
    let role = grants.role(project).ok_or_else(forbidden)?;
    Ok((project.clone(), Arc::clone(role)))
}

/// Where a room lies, if its visitor may be in it at all.
fn room_scope(grants: &Grants, room: &Room) -> Result<Option<(ProjectId, Arc<Role>)>, Refusal> {
    match room {
        Room::Project(project) | Room::Ephemeral(project, _) => {
            project_scope(grants, project).map(Some)
        }
        Room::Entity(project, entity) => {
            let scope = project_scope(grants, project)?;
            if scope.1.can_read(&entity.kind) { Ok(Some(scope)) } else { Err(forbidden()) }
        }
        Room::User(user) if user == grants.user() => Ok(None),
        Room::User(_) => Err(forbidden()),
    }
}

/// Proof that the admin token was presented.
#[derive(Debug)]
#[must_use]
pub struct AdminPermit(());

/// Checks a bearer token against the configured admin token, in constant time.
///
/// # Errors
/// `not_found` if no admin token is configured (the admin API is off), else `unauthorized`.
pub fn authorize_admin(header_token: &str, configured: &str) -> Result<AdminPermit, Refusal> {
    if configured.is_empty() {
        return Err(Refusal::new(ErrorCode::NotFound, "the admin API is turned off"));
    }
    // Of digests, because the time to compare texts shows the length of the shorter.
    let same = Sha256::digest(header_token).ct_eq(&Sha256::digest(configured));
    if bool::from(same) {
        Ok(AdminPermit(()))
    } else {
        Err(Refusal::new(ErrorCode::Unauthorized, "the admin token is wrong"))
    }
}

/// Proof that an event comes from a backend that may publish.
#[derive(Debug)]
#[must_use]
pub struct IngestAuthority(());

impl From<&AdminPermit> for IngestAuthority {
    fn from(_: &AdminPermit) -> Self {
        Self(())
    }
}

/// Checks an event that came through Redis: `sig` must be the HMAC-SHA256, in hex, of the raw event with
/// the secret of its `source`. Without configured sources every event is believed: then whoever may
/// write to Redis may publish.
///
/// # Errors
/// `unauthorized`, without saying which of source and signature is wrong.
pub fn ingest_authority(
    cfg: &config::Ingest,
    raw_event: &[u8],
    source: Option<&str>,
    sig: Option<&str>,
) -> Result<IngestAuthority, Refusal> {
    if cfg.sources.is_empty() {
        return Ok(IngestAuthority(()));
    }
    let signed = || {
        let source = cfg.sources.iter().find(|known| Some(known.name.as_str()) == source)?;
        let signature = hex::decode(sig?).ok()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(source.secret.as_bytes()).ok()?;
        mac.update(raw_event);
        mac.verify_slice(&signature).ok()
    };
    match signed() {
        Some(()) => Ok(IngestAuthority(())),
        None => Err(Refusal::new(
            ErrorCode::Unauthorized,
            "the event is not signed by a configured source",
        )),
    }
}

#[cfg(test)]
mod tests;
