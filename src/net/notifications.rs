//! `/v1/notifications`: the user's inbox, in the projects their token grants and of the types they read there.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::api::{done, grants, json, name, spend, unavailable};
use super::problem::Problem;
use crate::auth::{Command, Grants, InboxPermit, authorize, authorize_inbox};
use crate::hub::Hub;
use crate::id::ProjectId;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::notify::Lane;
use crate::store::push::{InboxQuery, InboxRow, Reads};

/// Notifications in a page.
const PAGE: u32 = 50;
const MOST: u32 = 200;

/// The endpoints.
pub(super) fn router() -> Router<Arc<Hub>> {
    Router::new()
        .route("/v1/notifications", get(list))
        .route("/v1/notifications/read-all", post(read_all))
        .route("/v1/notifications/seen", post(seen))
        .route("/v1/notifications/test", post(test))
        .route("/v1/notifications/{nid}/read", post(read))
}

/// The user's inbox: of the project asked for, or of all that are granted.
fn own(grants: &Grants, project: Option<&str>) -> Result<(InboxPermit, Vec<Reads>), Refusal> {
    let project: Option<ProjectId> = project.map(name).transpose()?;
    let permit = authorize_inbox(grants, project.as_ref())?;
    let reads = permit.reads().map(|(project, types)| Reads {
        project: project.clone(),
        types: types.map(<[_]>::to_vec),
    });
    let reads = reads.collect();
    Ok((permit, reads))
}

#[derive(Debug, Deserialize)]
struct Asked {
    project: Option<String>,
    before: Option<String>,
    #[serde(default)]
    unread: bool,
    limit: Option<u32>,
    /// The language of what is made from a template.
    locale: Option<String>,
}

#[derive(Debug, Serialize)]
struct Inbox {
    notifications: Vec<Notification>,
    /// What is not read, at most 999.
    unread: i64,
    /// What to ask on with as `before`; none on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct Notification {
    nid: String,
    project: String,
    /// The change that it came with; 0 for a test.
    seq: i64,
    title: String,
    body: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    lane: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_at: Option<i64>,
}

impl Notification {
    fn new(hub: &Hub, row: InboxRow, locale: Option<&str>) -> Self {
        let vars = row.vars.as_deref().and_then(|vars| serde_json::from_str(vars).ok());
        let text = row.template.as_deref().zip(locale).and_then(|(name, locale)| {
            let vars = vars.unwrap_or_default();
            hub.push.templates.render(name, Some(locale), &vars, 1).ok()
        });
        let (title, body) = text.map_or((row.title, row.body), |text| (text.title, text.body));
        Self {
            nid: row.nid,
            project: row.project,
            seq: row.evt_seq,
            title,
            body,
            data: row.data.and_then(|data| RawValue::from_string(data).ok()),
            link: row.link,
            lane: row.lane,
            category: row.category,
            at: row.created_at,
            seen_at: row.seen_at,
            read_at: row.read_at,
        }
    }
}

async fn list(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Json<Inbox>, Problem> {
    let grants = grants(&hub, &headers).await?;
    let (permit, reads) = own(&grants, asked.project.as_deref())?;
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, MOST);
    let unread = hub.store.unread(permit.user(), &reads).await.map_err(|e| unavailable(&e))?;
    let query = InboxQuery { reads, before: asked.before, unread: asked.unread, limit };
    let rows = hub.store.inbox(permit.user(), &query).await.map_err(|e| unavailable(&e))?;
    let full = rows.len() == limit as usize;
    let next = rows.last().filter(|_| full).map(|row| row.nid.clone());
    let locale = asked.locale.as_deref();
    let notifications = rows.into_iter().map(|row| Notification::new(&hub, row, locale)).collect();
    Ok(Json(Inbox { notifications, unread, next }))
}

async fn read(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(nid): Path<String>,
) -> Result<Response, Problem> {
    let grants = grants(&hub, &headers).await?;
    let (permit, reads) = own(&grants, None)?;
    let marked = hub.store.mark_read(permit.user(), &reads, Some(&nid), None).await;
    marked.map_err(|error| unavailable(&error))?;
    Ok(done())
}

#[derive(Debug, Default, Deserialize)]
struct UpTo {
    project: Option<String>,
    /// The latest the person has before them; without it, all there are.
    up_to: Option<String>,
}

fn up_to(body: &str) -> Result<UpTo, Refusal> {
    if body.trim().is_empty() { Ok(UpTo::default()) } else { json(body) }
}

async fn read_all(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<serde_json::Value>, Problem> {
    let grants = grants(&hub, &headers).await?;
    let UpTo { project, up_to } = up_to(&body)?;
    let (permit, reads) = own(&grants, project.as_deref())?;
    let marked = hub.store.mark_read(permit.user(), &reads, None, up_to.as_deref()).await;
    let marked = marked.map_err(|error| unavailable(&error))?;
    Ok(Json(serde_json::json!({ "read": marked })))
}

async fn seen(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<serde_json::Value>, Problem> {
    let grants = grants(&hub, &headers).await?;
    let UpTo { project, up_to } = up_to(&body)?;
    let (permit, reads) = own(&grants, project.as_deref())?;
    let marked = hub.store.mark_seen(permit.user(), &reads, up_to.as_deref()).await;
    let marked = marked.map_err(|error| unavailable(&error))?;
    Ok(Json(serde_json::json!({ "seen": marked })))
}

#[derive(Debug, Deserialize)]
struct Test {
    project: String,
    #[serde(default)]
    lane: Lane,
}

/// A notification to oneself, the way every other goes, and at the cost of an operation. As urgent as what an
/// operation may ask for: who may write none has no emergencies to try out.
async fn test(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<serde_json::Value>, Problem> {
    let grants = grants(&hub, &headers).await?;
    let Test { project, lane } = json(&body)?;
    let project: ProjectId = name(&project)?;
    let permit = authorize(&grants, Command::Write(&project))?;
    if lane == Lane::Critical && !permit.in_project()?.1.can_write_some() {
        let message = "the role may not write, and tries out nothing `critical`";
        return Err(Refusal::new(ErrorCode::Forbidden, message).into());
    }
    spend(&hub, &permit, 1)?;
    let nid = hub.store.arm_test(&project, permit.user(), lane, "Test", "It works.").await;
    let nid = nid.map_err(|error| unavailable(&error))?;
    Ok(Json(serde_json::json!({ "nid": nid })))
}
