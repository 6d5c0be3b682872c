//! Whose bodies are read: a short one is anybody's, a longer one of whoever is known.
//!
//! Handlers ask who is there once they have the body. Until then a stranger could have `limits.body_bytes`
//! kept on every connection.

use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::claims;
use super::problem::Problem;
use super::publish;
use super::upgrade::bearer;
use crate::auth::authorize_admin;
use crate::hub::Hub;

/// Bytes of a body that are read whoever sends it.
const ANYBODYS: u64 = 16 << 10;

/// Passes a request on if its body is short, or its sender known.
pub(super) async fn of_the_known(
    State(hub): State<Arc<Hub>>,
    request: Request,
    next: Next,
) -> Response {
    // Without a length it may be any.
    let short = request.body().size_hint().upper().is_some_and(|bytes| bytes <= ANYBODYS);
    if !short {
        let headers = request.headers().clone();
        if let Err(problem) = known(&hub, &headers).await {
            return problem.into_response();
        }
    }
    next.run(request).await
}

/// Asks who sends it. Whether a signature is good is seen when the body is there.
async fn known(hub: &Hub, headers: &HeaderMap) -> Result<(), Problem> {
    let admin = bearer(headers)
        .is_some_and(|token| authorize_admin(token, &hub.config.auth.admin_token).is_ok());
    if admin || publish::is_signed(hub, headers) {
        return Ok(());
    }
    claims(hub, headers).await.map(drop)
}
