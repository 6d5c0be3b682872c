//! `/`: a page to try the hub with, for development. Served only with `server.demo`.
//!
//! The page is `clients/typescript/demo/`, with the client in it, bundled into `demo/` here so that it
//! works without any other tool. `POST /demo/token` makes the tokens it connects with, `GET /demo/pushes` is
//! its push log.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api;
use super::problem::Problem;
use crate::auth::mint;
use crate::clock;
use crate::config::Server;
use crate::hub::Hub;
use crate::id::{ProjectId, UserId};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::store::push::Recent;

const PAGE: &str = include_str!("demo/index.html");
const STYLE: &str = include_str!("demo/demo.css");
const SCRIPT: &str = include_str!("demo/demo.js");

/// Seconds a token is good for: short, so that the page shows how tokens are renewed.
const TTL: i64 = 600;

/// The project of the page.
const PROJECT: &str = "demo";
/// Pushes in the log.
const PUSHES: u32 = 20;

/// The page, or nothing.
pub(super) fn router(server: &Server) -> Router<Arc<Hub>> {
    if !server.demo {
        return Router::new();
    }
    Router::new()
        .route("/", get(async || asset(PAGE, "text/html; charset=utf-8")))
        .route("/demo.css", get(async || asset(STYLE, "text/css; charset=utf-8")))
        .route("/demo.js", get(async || asset(SCRIPT, "text/javascript; charset=utf-8")))
        .route("/demo/token", post(token))
        .route("/demo/pushes", get(pushes))
}

fn asset(text: &'static str, kind: &'static str) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; \
                  frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
    ];
    (headers, text).into_response()
}

#[derive(Debug, Deserialize)]
struct Who {
    user: UserId,
}

async fn token(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Value>, Problem> {
    let refuse = |what: &str| Problem(Refusal::new(ErrorCode::Forbidden, what));
    // A page elsewhere may have had its name point here (DNS rebinding): it would be of our origin.
    if !headers.get(header::HOST).is_some_and(is_local) {
        return Err(refuse("open the page by the address the hub told"));
    }
    let Who { user } = api::json(&body)?;
    let key = hub.config.auth.hmac.first();
    let key = key.ok_or_else(|| refuse("tokens are made with a shared secret: `auth.hmac`"))?;
    let now = clock::now_s();
    let claims =
        json!({ "sub": user, "projects": { PROJECT: "editor" }, "iat": now, "exp": now + TTL });
    let token = mint(key, &claims).map_err(|error| refuse(&error.to_string()))?;
    Ok(Json(json!({ "token": token })))
}

/// The latest pushes of the page's project, whoever they are for: for who may be in it.
async fn pushes(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
) -> Result<Json<Vec<Recent>>, Problem> {
    let project: ProjectId = api::name(PROJECT)?;
    if api::grants(&hub, &headers).await?.role(&project).is_none() {
        return Err(Refusal::new(ErrorCode::Forbidden, "the token does not grant this").into());
    }
    let recent = hub.store.recent_pushes(&project, PUSHES).await;
    Ok(Json(recent.map_err(|error| api::unavailable(&error))?))
}

/// Whether a `Host` is this machine by a name that nobody else can give out.
fn is_local(host: &HeaderValue) -> bool {
    let host = host.to_str().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_for_pages_of_this_machine() {
        for (host, local) in [
            ("127.0.0.1:8080", true),
            ("localhost", true),
            ("[::1]:8080", true),
            ("rebound.example:8080", false),
            ("127.0.0.1.example", false),
        ] {
            assert_eq!(is_local(&HeaderValue::from_static(host)), local, "{host}");
        }
    }
}
