//! The HTTP endpoints of users: the same commands as on a socket, for clients that cannot hold one.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use percent_encoding::percent_decode;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::SizeAbove;
use tracing::Instrument;

use super::admin;
use super::body;
use super::caller::{Caller, Wish};
use super::conflicts;
use super::cors;
use super::demo;
use super::lane;
use super::members;
use super::problem::{self, Problem};
use super::publish;
use super::request_id;
use super::status;
use super::upgrade::bearer;
use super::{changes, checksum, notifications, policies, push};
use crate::auth::{Claims, Command, Grants, Permit, authorize};
use crate::clock;
use crate::hub::Hub;
use crate::id::{EntityId, EntityKey, EntityType, ProjectId, Room, UserId};
use crate::presence::PresencePage;
use crate::protocol::client::Write;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::json::reason;
use crate::protocol::op::{EntityState, StoredVerdict};
use crate::quota::Kind;
use crate::store::{EntityRow, StoreError};
use crate::sync::engine;
use crate::telemetry::{AuthFailure, RateLimit};

/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a reply that is compressed.
const COMPRESS_ABOVE: u16 = 8 << 10;

/// All HTTP endpoints of the public listener.
pub fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/v1/projects/{project}/changes", get(changes::changes).layer(compressed()))
        .route("/v1/projects/{project}/checksum", get(checksum::checksum))
        .route("/v1/projects/{project}/entities/{type}/{id}", get(entity))
        .route("/v1/projects/{project}/entities/{type}/{id}/explain", get(conflicts::explain))
        .route("/v1/projects/{project}/conflicts", get(conflicts::mine))
        .route("/v1/projects/{project}/ops", post(ops))
        .route("/v1/sync/status", get(status::mine))
        .route("/v1/sync/log", get(status::my_log))
        .route("/v1/sync/failed", get(lane::mine))
        .route("/v1/sync/failed/retry", post(lane::retry_mine))
        .route("/v1/sync/failed/clear", post(lane::clear_mine))
        .route("/v1/rooms/{room}/presence", get(presence))
        .route("/v1/cache-policies", get(policies::list))
        .route("/v1/admin/cache-policies/{type}", put(policies::put).delete(policies::delete))
        .route("/v1/publish", post(publish::publish))
        .merge(notifications::router())
        .merge(push::router())
        .route("/v1/admin/projects/{project}/conflicts", get(conflicts::all))
        .route("/v1/admin/projects/{project}/sync/status", get(status::of))
        .route("/v1/admin/projects/{project}/sync/log", get(status::log_of))
        .route("/v1/admin/projects/{project}/sync/failed", get(lane::of))
        .route("/v1/admin/projects/{project}/sync/failed/retry", post(lane::retry_of))
        .route("/v1/admin/projects/{project}/sync/failed/clear", post(lane::clear_of))
        .route("/v1/admin/users/{user}/disconnect", post(admin::disconnect))
        .route("/v1/admin/tokens/revoke", post(admin::revoke))
        .route("/v1/admin/projects/{project}/members", get(members::list))
        .route(
            "/v1/admin/projects/{project}/members/{user}",
            put(members::set).delete(members::remove),
        )
        .fallback(async || Problem(Refusal::new(ErrorCode::NotFound, "there is no such endpoint")))
        .layer(DefaultBodyLimit::max(hub.config.limits.body_bytes))
        .layer(middleware::from_fn_with_state(hub.clone(), body::of_the_known))
        .layer(middleware::from_fn_with_state(hub.clone(), count))
        .layer(cors::layer(&hub.config.server.allowed_origins))
        // Outside of what pages of other origins may read: it hands out tokens.
        .merge(demo::router(&hub.config.server))
        .with_state(hub)
}

/// gzip for replies that are worth it, for those who accept it. The fastest level: it runs on a thread
/// that serves connections.
fn compressed() -> CompressionLayer<SizeAbove> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESS_ABOVE))
}

async fn count(State(hub): State<Arc<Hub>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let id = request_id::of(request.headers());
    let span = tracing::info_span!("request", request_id = id.to_str().unwrap_or_default());
    // A body that trickles in holds no connection for ever.
    let served = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).instrument(span).await;
    let mut response = match served {
        Ok(response) if problem::is_problem(&response) => response,
        Ok(response) => problem::from_framework(response, hub.config.limits.body_bytes),
        Err(_) => {
            let message = "the request took too long; send it again";
            Problem(Refusal::new(ErrorCode::Unavailable, message).retry_after(1000)).into_response()
        }
    };
    let route = route.as_ref().map_or("other", MatchedPath::as_str);
    hub.metrics.http_request(route, response.status().as_u16());
    response.headers_mut().insert(request_id::NAME, id);
    response
}

/// As whom a client means to speak. What waits on a device is its owner's, whoever is logged in there now.
pub(super) const MEANT: &str = "syncline-user";

/// Whom the bearer token names.
pub(super) async fn claims(hub: &Hub, headers: &HeaderMap) -> Result<Claims, Problem> {
    let token = bearer(headers).ok_or_else(|| {
        hub.metrics.auth_failures.of(AuthFailure::Missing).inc();
        Refusal::new(ErrorCode::Unauthorized, "send the token as `Authorization: Bearer …`")
    })?;
    let claims = hub.auth.authenticate(token, clock::now_s()).await.map_err(|error| {
        hub.metrics.auth_failures.of((&error).into()).inc();
        error.refusal()
    })?;
    let other =
        |meant: &HeaderValue| !percent_decode(meant.as_bytes()).eq(claims.user.as_str().bytes());
    if headers.get(MEANT).is_some_and(other) {
        let message = "the token is another user's than `Syncline-User` names";
        return Err(Refusal::new(ErrorCode::Unauthorized, message).into());
    }
    Ok(claims)
}

/// What they may do now.
pub(super) async fn grants(hub: &Hub, headers: &HeaderMap) -> Result<Grants, Problem> {
    Ok(hub.access.grants(&claims(hub, headers).await?))
}

/// A path segment as a name.
pub(super) fn name<T: std::str::FromStr<Err = crate::id::InvalidName>>(
    text: &str,
) -> Result<T, Refusal> {
    text.parse().map_err(Refusal::from)
}

/// A store failure as a refusal.
pub(super) fn unavailable(error: &StoreError) -> Refusal {
    if error.retryable() {
        tracing::warn!(%error, "an HTTP request met an unavailable store");
        Refusal::new(ErrorCode::Unavailable, "the store does not answer; try again")
            .retry_after(1000)
    } else {
        Refusal::internal(error)
    }
}

/// Asks whether the bearer may read a room.
pub(super) async fn read(hub: &Hub, headers: &HeaderMap, room: &Room) -> Result<Permit, Problem> {
    let grants = grants(hub, headers).await?;
    Ok(authorize(&grants, Command::Read(room))?)
}

async fn entity(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path((project, kind, id)): Path<(String, String, String)>,
) -> Result<Json<EntityState>, Problem> {
    let project: ProjectId = name(&project)?;
    let key = EntityKey { kind: name::<EntityType>(&kind)?, id: name::<EntityId>(&id)? };
    let room = Room::Entity(project.clone(), key.clone());
    let caller = Caller::reads(&hub, &headers, room).await?;
    let row = hub.store.entity(&project, &key).await.map_err(|error| unavailable(&error))?;
    caller.still()?;
    let EntityRow { version, deleted, mut fields, .. } =
        row.ok_or_else(|| Refusal::new(ErrorCode::NotFound, "there is no such entity"))?;
    caller.permit().in_project()?.1.redact(&key.kind, &mut fields);
    Ok(Json(EntityState { version, deleted, fields }))
}

#[derive(Debug, Serialize)]
struct Verdicts {
    verdicts: Vec<StoredVerdict>,
}

async fn ops(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    body: String,
) -> Result<Json<Verdicts>, Problem> {
    let project: ProjectId = name(&project)?;
    let caller = Caller::may(&hub, claims(&hub, &headers).await?, Wish::Write(project))?;
    let permit = caller.permit();
    let read: Result<Write, _> = json(&body);
    // Who names no installation writes as the user.
    let client = read.as_ref().ok().and_then(|write| write.client.as_ref());
    let client = client.map_or(permit.user().as_str(), |client| client.as_str()).to_owned();
    let note = |write: Option<&Write>, refusal: &Refusal| {
        hub.note_refused(permit, &client, write, refusal);
    };
    let body = read.inspect_err(|refusal| note(None, refusal))?;
    let most = hub.config.limits.ops_per_write;
    body.check(most).inspect_err(|refusal| note(Some(&body), refusal))?;
    spend(&hub, permit, body.ops.len())?;
    let (decided, places) = hub.engine.write(permit, &client, &body)?;
    let decided = decision(decided).await?;
    caller.still()?;
    Ok(Json(Verdicts { verdicts: places.fill(decided) }))
}

/// Takes operations from what the user may write per second, over all instances.
pub(super) fn spend(hub: &Hub, permit: &Permit, ops: usize) -> Result<(), Refusal> {
    let count = u32::try_from(ops).unwrap_or(u32::MAX);
    hub.quota.take(permit.user(), Kind::Ops, count).map_err(|ms| {
        hub.metrics.rate_limited.of(RateLimit::User).inc();
        crate::session::state::too_fast(Duration::from_millis(ms))
    })
}

/// Waits for the engine's answers.
pub(super) async fn decision(decided: oneshot::Receiver<engine::Verdicts>) -> engine::Verdicts {
    decided.await.unwrap_or_else(|_| {
        Err(Refusal::new(ErrorCode::Unavailable, "the hub stopped; send it again"))
    })
}

/// A body as JSON, with a plain error.
pub(super) fn json<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(body).map_err(|error| {
        Refusal::new(ErrorCode::BadRequest, format!("the body is malformed: {}", reason(&error)))
    })
}

#[derive(Debug, Deserialize)]
struct After {
    after: Option<String>,
    limit: Option<usize>,
}

async fn presence(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(room): Path<String>,
    Query(query): Query<After>,
) -> Result<Json<PresencePage>, Problem> {
    let room: Room = name(&room)?;
    let grants = grants(&hub, &headers).await?;
    let _permit = authorize(&grants, Command::Presence(&room))?;
    let after = query.after.as_deref().map(name::<UserId>).transpose()?;
    let page = hub.presence.page(&room, after.as_ref(), query.limit.unwrap_or(100)).await;
    let page = page.map_err(|error| {
        Refusal::new(ErrorCode::Unavailable, error.to_string()).retry_after(1000)
    })?;
    Ok(Json(page))
}

/// An empty success.
pub(super) fn done() -> Response {
    axum::http::StatusCode::NO_CONTENT.into_response()
}
