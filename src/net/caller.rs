//! Somebody who reads or writes over HTTP. The role is asked for once more when the store has answered: it may
//! have been taken away while the request waited.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::api::claims;
use super::problem::Problem;
use crate::auth::{Claims, Command, Permit, authorize};
use crate::hub::Hub;
use crate::id::{ProjectId, Room};
use crate::protocol::error::Refusal;

/// The bearer of a token, with the permit for what they ask.
pub(super) struct Caller {
    hub: Arc<Hub>,
    claims: Claims,
    wish: Wish,
    permit: Permit,
}

/// What somebody asks to do.
pub(super) enum Wish {
    /// Read what a room carries.
    Read(Room),
    /// Write to a project's log.
    Write(ProjectId),
}

impl Wish {
    fn ask(&self, hub: &Hub, claims: &Claims) -> Result<Permit, Refusal> {
        let command = match self {
            Self::Read(room) => Command::Read(room),
            Self::Write(project) => Command::Write(project),
        };
        authorize(&hub.access.grants(claims), command)
    }
}

impl Caller {
    /// Asks whether the bearer may read a room.
    pub(super) async fn reads(
        hub: &Arc<Hub>,
        headers: &HeaderMap,
        room: Room,
    ) -> Result<Self, Problem> {
        Ok(Self::may(hub, claims(hub, headers).await?, Wish::Read(room))?)
    }

    /// Asks whether whom a token names may do something.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn may(hub: &Arc<Hub>, claims: Claims, wish: Wish) -> Result<Self, Refusal> {
        let permit = wish.ask(hub, &claims)?;
        Ok(Self { hub: hub.clone(), claims, wish, permit })
    }

    /// What they may.
    pub(super) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Whether they may be told now what was found, or decided, under the permit.
    ///
    /// # Errors
    /// `forbidden`, or `unavailable` if the role sees something else now.
    pub(super) fn still(&self) -> Result<(), Refusal> {
        self.permit.still(&self.wish.ask(&self.hub, &self.claims)?)
    }
}
