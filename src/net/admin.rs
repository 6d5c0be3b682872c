//! The HTTP endpoints of a product's own back office: end sessions, revoke tokens.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use tokio::time::Instant;

use super::api::{done, json, name, unavailable};
use super::problem::Problem;
use super::upgrade::bearer;
use crate::auth::{AdminPermit, Disconnect, Revocation, RevocationEntry, authorize_admin};
use crate::clock;
use crate::hub::Hub;
use crate::id::UserId;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::store::RevocationRow;
use crate::telemetry::AuthFailure;

/// How long a revocation is kept unless the request says: longer than any sensible token lives.
const KEEP_S: i64 = 90 * 24 * 3600;

/// Asks for the admin token.
///
/// # Errors
/// It is not the configured one, or the admin API is off.
pub fn permit(hub: &Hub, headers: &HeaderMap) -> Result<AdminPermit, Refusal> {
    let token = bearer(headers).unwrap_or_default();
    authorize_admin(token, &hub.config.auth.admin_token).inspect_err(|refusal| {
        if refusal.code == ErrorCode::Unauthorized {
            hub.metrics.auth_failures.of(AuthFailure::AdminToken).inc();
        }
    })
}

/// `POST /v1/admin/users/{user}/disconnect`: closes every connection of a user with 4403. Those that can
/// be reached are closed at once; the store tells the instances that the bus does not reach.
pub async fn disconnect(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(user): Path<String>,
) -> Result<Response, Problem> {
    let _permit = permit(&hub, &headers)?;
    let user: UserId = name(&user)?;
    tracing::info!(%user, "an administrator disconnects a user");
    let at = match hub.store.now_ms().await {
        Ok(now) => now,
        // Those here and those the bus reaches are closed all the same.
        Err(_) => store_ms(&hub),
    };
    let disconnect = Disconnect { user, at };
    hub.relay.disconnect(&disconnect);
    let row = disconnect.row().map_err(|error| Refusal::internal(&error))?;
    hub.store.revoke(&row).await.map_err(|error| unavailable(&error))?;
    Ok(done())
}

/// About what the store's clock says.
fn store_ms(hub: &Hub) -> i64 {
    hub.relay.disconnects.store_ms(Instant::now()).unwrap_or_else(clock::now_ms)
}

#[derive(Debug, Deserialize)]
struct Revoke {
    #[serde(flatten)]
    revocation: Revocation,
    /// Unix seconds after which every token it concerns has expired.
    expires_at: Option<i64>,
}

/// `POST /v1/admin/tokens/revoke`: refuses tokens from now on and closes the connections that use them.
/// Stored before it is answered, so that it survives restarts.
pub async fn revoke(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, Problem> {
    let _permit = permit(&hub, &headers)?;
    let Revoke { revocation, expires_at } = json(&body)?;
    let expires_at = expires_at.unwrap_or_else(|| store_ms(&hub) / 1000 + KEEP_S);
    let body = serde_json::to_string(&revocation).map_err(|error| Refusal::internal(&error))?;
    hub.store
        .revoke(&RevocationRow { body, expires_at })
        .await
        .map_err(|error| unavailable(&error))?;
    tracing::info!("an administrator revoked tokens");
    hub.relay.revoked(RevocationEntry { revocation, expires_at });
    Ok(done())
}
