//! Somebody who reads over HTTP. The role is asked for once more when the store has answered: it may have
//! been taken away while the request waited.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::api::claims;
use super::problem::Problem;
use crate::auth::{Claims, Command, Permit, authorize};
use crate::hub::Hub;
use crate::id::Room;
use crate::protocol::error::Refusal;

/// The bearer of a token, with the permit to read a room.
pub(super) struct Reader {
    hub: Arc<Hub>,
    claims: Claims,
    room: Room,
    permit: Permit,
}

impl Reader {
    /// Asks whether the bearer may read a room.
    pub(super) async fn of(
        hub: &Arc<Hub>,
        headers: &HeaderMap,
        room: Room,
    ) -> Result<Self, Problem> {
        let claims = claims(hub, headers).await?;
        let permit = authorize(&hub.access.grants(&claims), Command::Read(&room))?;
        Ok(Self { hub: hub.clone(), claims, room, permit })
    }

    /// What they may.
    pub(super) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Whether they may be told now what was found under the permit.
    ///
    /// # Errors
    /// `forbidden`, or `unavailable` if the role sees something else now.
    pub(super) fn still(&self) -> Result<(), Refusal> {
        let now = authorize(&self.hub.access.grants(&self.claims), Command::Read(&self.room))?;
        self.permit.still(&now)
    }
}
