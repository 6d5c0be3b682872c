//! The HTTP endpoints of where synchronisation stands: status, and the log of requests; a user's own, and
//! everybody's for the back office.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::admin;
use super::api::{grants, name, read, unavailable};
use super::problem::Problem;
use crate::hub::Hub;
use crate::id::{ProjectId, Room, UserId};
use crate::store::{SyncLogQuery, SyncRecord, SyncStatus};

/// Projects in one answer.
const PROJECTS: usize = 100;
/// Records on one page.
const PAGE: u32 = 200;

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// One project; without it all that the token grants, by name.
    project: Option<ProjectId>,
    after: Option<ProjectId>,
}

/// Where projects stand.
#[derive(Debug, Serialize)]
pub(super) struct Statuses {
    projects: Vec<SyncStatus>,
    /// Ask on with this as `after`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<ProjectId>,
}

/// `GET /v1/sync/status`: the user's own, in one project or in all.
pub(super) async fn mine(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Result<Json<Statuses>, Problem> {
    let (user, mut projects) = match which.project {
        Some(project) => {
            let permit = read(&hub, &headers, &Room::Project(project.clone())).await?;
            (permit.user().clone(), vec![project])
        }
        None => {
            let grants = grants(&hub, &headers).await?;
            let granted = grants.projects().map(|(project, _)| project);
            let rest = granted.filter(|p| which.after.as_ref().is_none_or(|after| *p > after));
            (grants.user().clone(), rest.take(PROJECTS + 1).cloned().collect())
        }
    };
    let more = projects.len() > PROJECTS;
    projects.truncate(PROJECTS);
    let next = projects.last().filter(|_| more).cloned();
    let projects = hub.store.sync_status(&projects, Some(user.as_str())).await;
    let projects = projects.map_err(|error| unavailable(&error))?;
    Ok(Json(Statuses { projects, next }))
}

#[derive(Debug, Deserialize)]
pub(super) struct Whose {
    user: Option<UserId>,
}

/// `GET /v1/admin/projects/{project}/sync/status`: of a user, or of all.
pub(super) async fn of(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(Whose { user }): Query<Whose>,
) -> Result<Json<Statuses>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let user = user.as_ref().map(UserId::as_str);
    let projects = hub.store.sync_status(&[name(&project)?], user).await;
    let projects = projects.map_err(|error| unavailable(&error))?;
    Ok(Json(Statuses { projects, next: None }))
}

#[derive(Debug, Deserialize)]
pub(super) struct LogFilter {
    project: Option<ProjectId>,
    user: Option<UserId>,
    before: Option<Uuid>,
    limit: Option<u32>,
}

/// Records of the log of requests, the newest first.
#[derive(Debug, Serialize)]
pub(super) struct Log {
    log: Vec<SyncRecord>,
    /// Ask on with this as `before`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `GET /v1/sync/log?project=`: the user's own.
pub(super) async fn my_log(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Query(filter): Query<LogFilter>,
) -> Result<Json<Log>, Problem> {
    let project = super::lane::needed(filter.project.clone())?;
    let permit = read(&hub, &headers, &Room::Project(project.clone())).await?;
    let filter = LogFilter { user: Some(permit.user().clone()), ..filter };
    log(&hub, &project, &filter).await
}

/// `GET /v1/admin/projects/{project}/sync/log`: of a user, or of all.
pub(super) async fn log_of(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(filter): Query<LogFilter>,
) -> Result<Json<Log>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    log(&hub, &name(&project)?, &filter).await
}

async fn log(hub: &Hub, project: &ProjectId, filter: &LogFilter) -> Result<Json<Log>, Problem> {
    let limit = filter.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let before = filter.before.map(|id| id.to_string());
    let user = filter.user.as_ref().map(UserId::as_str);
    let query = SyncLogQuery { user, before: before.as_deref(), limit };
    let log = hub.store.sync_log(project, query).await.map_err(|error| unavailable(&error))?;
    let full = log.len() == limit as usize;
    let next = log.last().filter(|_| full).map(|record| record.id.clone());
    Ok(Json(Log { log, next }))
}
