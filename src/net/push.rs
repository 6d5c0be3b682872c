//! `/v1/push`: devices, and what they report back; for operators, numbers, previews and schedules.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json as value};

use super::admin;
use super::api::{done, grants, json, name, unavailable};
use super::problem::Problem;
use crate::auth::{Command, authorize};
use crate::hub::Hub;
use crate::id::{ClientId, ProjectId};
use crate::protocol::client::PushDevice;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::Fields;
use crate::push::devices;
use crate::push::summary::Summary;
use crate::store::push::Device;

/// The endpoints.
pub(super) fn router() -> Router<Arc<Hub>> {
    Router::new()
        .route("/v1/push/devices", get(list).post(register).put(register))
        .route("/v1/push/devices/{id}", delete(remove))
        .route("/v1/push/received", post(received))
        .route("/v1/push/opened", post(opened))
        .route("/v1/push/stats", get(stats))
        .route("/v1/push/queue", get(queue))
        .route("/v1/push/preview", post(preview))
        .route("/v1/push/unschedule", post(unschedule))
}

#[derive(Debug, Deserialize)]
struct Register {
    client: ClientId,
    #[serde(flatten)]
    device: PushDevice,
}

async fn register(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Value>, Problem> {
    let permit = authorize(&grants(&hub, &headers).await?, Command::Own)?;
    let Register { client, device } = json(&body)?;
    let id = devices::register(&hub, &permit, client, device).await?;
    Ok(Json(value!({ "id": id })))
}

/// A device as its user sees it; the token itself is nobody's business.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    client: String,
    provider: String,
    platform: String,
    locale: Option<String>,
    tz: Option<String>,
    app_version: Option<String>,
    model: Option<String>,
    state: String,
    reason: Option<String>,
    registered_at: i64,
    last_success_at: Option<i64>,
}

impl From<Device> for Shown {
    fn from(device: Device) -> Self {
        Self {
            id: device.id,
            client: device.client,
            provider: device.provider,
            platform: device.platform,
            locale: device.locale,
            tz: device.tz,
            app_version: device.app_version,
            model: device.model,
            state: device.state,
            reason: device.reason,
            registered_at: device.registered_at,
            last_success_at: device.last_success_at,
        }
    }
}

async fn list(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    let permit = authorize(&grants(&hub, &headers).await?, Command::Own)?;
    let devices = hub.store.devices(permit.user()).await.map_err(|e| unavailable(&e))?;
    let devices: Vec<Shown> = devices.into_iter().map(Shown::from).collect();
    Ok(Json(value!({ "devices": devices })))
}

async fn remove(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(id): Path<i64>,
) -> Result<Response, Problem> {
    let permit = authorize(&grants(&hub, &headers).await?, Command::Own)?;
    let removed = hub.store.remove_device(permit.user(), Some(id), None).await;
    if removed.map_err(|error| unavailable(&error))? == 0 {
        return Err(Refusal::new(ErrorCode::NotFound, "there is no such device").into());
    }
    Ok(done())
}

#[derive(Debug, Deserialize)]
struct Reported {
    nid: String,
    /// As it came with the push.
    report: String,
}

async fn received(State(hub): State<Arc<Hub>>, body: String) -> Result<Response, Problem> {
    reported(&hub, &body, false).await
}

async fn opened(State(hub): State<Arc<Hub>>, body: String) -> Result<Response, Problem> {
    reported(&hub, &body, true).await
}

/// No token is asked for: an app that was woken in the background may have none. The signature says that
/// the push was sent to this device.
async fn reported(hub: &Hub, body: &str, opened: bool) -> Result<Response, Problem> {
    let Reported { nid, report } = json(body)?;
    let device = hub.push.signer.device(&nid, &report).ok_or_else(|| {
        Refusal::new(ErrorCode::Forbidden, "`report` is not what came with this push")
    })?;
    let news = hub.store.push_reported(&nid, device, opened).await.map_err(|e| unavailable(&e))?;
    for (lane, event, provider) in news {
        hub.metrics.push_event(&lane, &event, &provider);
    }
    Ok(done())
}

#[derive(Debug, Deserialize)]
struct Within {
    /// Seconds to look back.
    #[serde(default = "day")]
    within: u32,
    #[serde(default)]
    project: String,
}

fn day() -> u32 {
    86_400
}

async fn stats(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Query(Within { within, project }): Query<Within>,
) -> Result<Json<Vec<Summary>>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let stats = hub.store.push_stats(i64::from(within) * 1000, &project).await;
    Ok(Json(Summary::of(&stats.map_err(|error| unavailable(&error))?)))
}

async fn queue(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let lines = hub.store.push_queue().await.map_err(|error| unavailable(&error))?;
    Ok(Json(value!({ "queue": lines })))
}

#[derive(Debug, Deserialize)]
struct Preview {
    template: String,
    locale: Option<String>,
    #[serde(default)]
    vars: Fields,
    #[serde(default = "one")]
    count: usize,
}

fn one() -> usize {
    1
}

async fn preview(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Value>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let Preview { template, locale, vars, count } = json(&body)?;
    let text = hub.push.templates.render(&template, locale.as_deref(), &vars, count);
    let text = text.map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
    Ok(Json(value!(text)))
}

#[derive(Debug, Deserialize)]
struct Unschedule {
    project: String,
    nid: Option<String>,
    collapse: Option<String>,
}

async fn unschedule(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Value>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let Unschedule { project, nid, collapse } = json(&body)?;
    if nid.is_none() == collapse.is_none() {
        let what = "name what is scheduled by either `nid` or `collapse`";
        return Err(Refusal::new(ErrorCode::BadRequest, what).into());
    }
    let project: ProjectId = name(&project)?;
    let canceled = hub.store.unschedule(&project, nid.as_deref(), collapse.as_deref()).await;
    let canceled = canceled.map_err(|error| unavailable(&error))?;
    Ok(Json(value!({ "canceled": canceled })))
}
