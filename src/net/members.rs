//! The HTTP endpoints of a product's own back office for who is in a project.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::admin::permit;
use super::api::{done, json, name, unavailable};
use super::problem::Problem;
use crate::auth::IngestAuthority;
use crate::hub::Hub;
use crate::id::{ProjectId, RoleName, UserId};

/// Members of one page, unless asked for fewer or more.
const PAGE: u32 = 100;
/// Members of one page at most.
const MAX_PAGE: u32 = 1000;

/// Which page is asked for.
#[derive(Debug, Deserialize)]
pub struct After {
    after: Option<String>,
    limit: Option<u32>,
}

/// Some of a project's members, in the order of their names.
#[derive(Debug, Serialize)]
pub struct Page {
    members: Vec<Member>,
    /// Where the next page begins; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<UserId>,
}

#[derive(Debug, Serialize)]
struct Member {
    user: UserId,
    /// Null for one who was taken out, whatever their token says.
    role: Option<RoleName>,
    /// Milliseconds since the Unix epoch.
    updated_at: i64,
}

/// `GET /v1/admin/projects/{project}/members`: what is stored of who is in a project.
pub async fn list(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(query): Query<After>,
) -> Result<Json<Page>, Problem> {
    let _permit = permit(&hub, &headers)?;
    let project: ProjectId = name(&project)?;
    let after = query.after.as_deref().map(name::<UserId>).transpose()?;
    let limit = query.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let rows = hub.store.members(&project, after.as_ref(), limit).await;
    let rows = rows.map_err(|error| unavailable(&error))?;
    let full = rows.len() == limit as usize;
    let next = rows.last().filter(|_| full).map(|(user, ..)| user.clone());
    let member = |(user, role, updated_at)| Member { user, role, updated_at };
    Ok(Json(Page { members: rows.into_iter().map(member).collect(), next }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    role: RoleName,
}

/// `PUT /v1/admin/projects/{project}/members/{user}`: gives a user a role, on every instance and on the
/// connections they have.
pub async fn set(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path((project, user)): Path<(String, String)>,
    body: String,
) -> Result<Response, Problem> {
    let permit = permit(&hub, &headers)?;
    let (project, user): (ProjectId, UserId) = (name(&project)?, name(&user)?);
    let Set { role } = json(&body)?;
    hub.members.set(&IngestAuthority::from(&permit), &project, &user, Some(&role)).await?;
    tracing::info!(%project, %user, %role, "an administrator set a member's role");
    Ok(done())
}

/// How a member is taken out.
#[derive(Debug, Deserialize)]
pub struct Remove {
    #[serde(default)]
    forget: bool,
}

/// `DELETE /v1/admin/projects/{project}/members/{user}`: takes a user out, whatever their token says; with
/// `?forget=true` nothing stays stored of them, and their token decides.
pub async fn remove(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path((project, user)): Path<(String, String)>,
    Query(query): Query<Remove>,
) -> Result<Response, Problem> {
    let permit = permit(&hub, &headers)?;
    let (project, user): (ProjectId, UserId) = (name(&project)?, name(&user)?);
    let authority = IngestAuthority::from(&permit);
    if query.forget {
        hub.members.forget(&authority, &project, &user).await?;
    } else {
        hub.members.set(&authority, &project, &user, None).await?;
    }
    tracing::info!(%project, %user, forget = query.forget, "an administrator took a member out");
    Ok(done())
}
