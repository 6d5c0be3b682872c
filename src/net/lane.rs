//! The HTTP endpoints of the failed lane: see what was rejected, try it again, take it out; a user's own,
//! and any user's for the back office.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::admin;
use super::api::{claims, decision, grants, json, name, read, spend, unavailable};
use super::caller::{Caller, Wish};
use super::problem::Problem;
use crate::auth::{Command, Permit, authorize};
use crate::hub::Hub;
use crate::id::{OpId, ProjectId, RoleName, Room, UserId};
use crate::protocol::client::Write;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::{StoredVerdict, Verdict};
use crate::store::{LaneOp, LanePlace, LaneQuery, Standing};
use crate::sync::{plan, submission};

/// Operations on one page, and decided anew by one request.
const PAGE: u32 = 100;

#[derive(Debug, Deserialize)]
pub(super) struct Filter {
    project: Option<ProjectId>,
    user: Option<UserId>,
    after: Option<String>,
    limit: Option<u32>,
}

/// An operation that waits in the lane.
#[derive(Debug, Serialize)]
struct Failed {
    op_id: OpId,
    user: String,
    client: String,
    /// The role it was sent under.
    #[serde(skip_serializing_if = "String::is_empty")]
    role: String,
    code: Option<String>,
    message: Option<String>,
    attempts: u32,
    /// When it was decided last, in milliseconds since the Unix epoch.
    at: i64,
    op: Option<Box<RawValue>>,
}

impl From<LaneOp> for Failed {
    fn from(op: LaneOp) -> Self {
        let verdict: Option<Verdict> = serde_json::from_str(op.verdict.get()).ok();
        let (code, message) = verdict.map_or((None, None), |v| (v.code, v.message));
        let LaneOp { op_id, user, client, role, attempts, at, op, .. } = op;
        Self { op_id, user, client, role, code, message, attempts, at, op }
    }
}

/// Operations of the lane, the oldest first.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    failed: Vec<Failed>,
    /// Ask on with this as `after`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<LanePlace>,
}

/// `GET /v1/sync/failed?project=`: the user's own.
pub(super) async fn mine(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Result<Json<Page>, Problem> {
    let project = needed(filter.project.clone())?;
    let permit = read(&hub, &headers, &Room::Project(project.clone())).await?;
    page(&hub, &project, Some(permit.user()), &filter).await
}

/// `GET /v1/admin/projects/{project}/sync/failed`: a user's, or everybody's.
pub(super) async fn of(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    page(&hub, &name(&project)?, filter.user.as_ref(), &filter).await
}

async fn page(
    hub: &Hub,
    project: &ProjectId,
    user: Option<&UserId>,
    filter: &Filter,
) -> Result<Json<Page>, Problem> {
    let after = filter.after.as_deref().map(place).transpose()?;
    let limit = filter.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let user = user.map(UserId::as_str);
    let query = LaneQuery { user, op_ids: None, after: after.as_ref(), limit };
    let (failed, next) = load(hub, project, &query).await?;
    Ok(Json(Page { failed: failed.into_iter().map(Failed::from).collect(), next }))
}

/// The project a query or a body has to name.
pub(super) fn needed(project: Option<ProjectId>) -> Result<ProjectId, Refusal> {
    project.ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "name the `project`"))
}

fn place(text: &str) -> Result<LanePlace, Refusal> {
    text.parse().map_err(|error: crate::store::InvalidPlace| {
        Refusal::new(ErrorCode::BadRequest, error.to_string())
    })
}

/// One page of the lane, no larger than a request's body may be, and where to go on.
async fn load(
    hub: &Hub,
    project: &ProjectId,
    query: &LaneQuery<'_>,
) -> Result<(Vec<LaneOp>, Option<LanePlace>), Refusal> {
    let failed = hub.store.failed(project, query).await;
    let mut failed = failed.map_err(|error| unavailable(&error))?;
    let full = failed.len() == query.limit as usize;
    let (mut bytes, mut fit) = (0, 0);
    for op in &failed {
        bytes += op.op.as_ref().map_or(0, |op| op.get().len()) + op.verdict.get().len();
        if fit > 0 && bytes > hub.config.limits.body_bytes {
            break;
        }
        fit += 1;
    }
    let cut = fit < failed.len();
    failed.truncate(fit);
    let next = failed.last().filter(|_| full || cut).map(|op| op.place.clone());
    Ok((failed, next))
}

/// What to try again, or to take out.
#[derive(Debug, Deserialize)]
struct Asked {
    /// Where a user asks.
    project: Option<ProjectId>,
    /// Whose, where an administrator asks.
    user: Option<UserId>,
    /// The role to decide under, where an administrator asks; without it the one that is stored for the user,
    /// else the one each was sent under, as it is configured now.
    role: Option<RoleName>,
    /// These only.
    op_ids: Option<Vec<OpId>>,
    after: Option<String>,
}

impl Asked {
    fn read(hub: &Hub, body: &str) -> Result<Self, Refusal> {
        let asked: Self = json(body)?;
        let limit = hub.config.limits.ops_per_write;
        if asked.op_ids.as_ref().is_some_and(|op_ids| op_ids.len() > limit) {
            return Err(Refusal::limit("ops_per_write", limit as u64));
        }
        Ok(asked)
    }

    /// Those to be decided anew now, and where to go on: a group is not torn apart by the end of a page.
    async fn next(
        &self,
        hub: &Hub,
        project: &ProjectId,
        user: &UserId,
    ) -> Result<(Vec<LaneOp>, Option<LanePlace>), Refusal> {
        let after = self.after.as_deref().map(place).transpose()?;
        let (user, op_ids) = (Some(user.as_str()), self.op_ids.as_deref());
        let limit = PAGE.max(u32::try_from(hub.config.limits.ops_per_group).unwrap_or(PAGE));
        let query = LaneQuery { user, op_ids, after: after.as_ref(), limit };
        let (mut failed, next) = load(hub, project, &query).await?;
        if next.is_none() {
            return Ok((failed, next));
        }
        failed.truncate(submission::whole_groups(&failed));
        let next = failed.last().map(|op| op.place.clone());
        Ok((failed, next))
    }
}

/// What became of the operations of one page.
#[derive(Debug, Serialize)]
pub(super) struct Retried {
    verdicts: Vec<StoredVerdict>,
    /// Ask on with this as `after`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<LanePlace>,
}

/// `POST /v1/sync/failed/retry`: the user's own, under the token's role.
pub(super) async fn retry_mine(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Retried>, Problem> {
    let claims = claims(&hub, &headers).await?;
    let asked = Asked::read(&hub, &body)?;
    let project = needed(asked.project.clone())?;
    let caller = Caller::may(&hub, claims, Wish::Write(project.clone()))?;
    let permit = caller.permit();
    let (failed, next) = asked.next(&hub, &project, permit.user()).await?;
    spend(&hub, permit, failed.len())?;
    let verdicts = retry(&hub, permit, &failed).await?;
    caller.still()?;
    Ok(Json(Retried { verdicts, next }))
}

/// `POST /v1/admin/projects/{project}/sync/failed/retry`: a user's, under a role named, stored or kept.
pub(super) async fn retry_of(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    body: String,
) -> Result<Json<Retried>, Problem> {
    let admin = admin::permit(&hub, &headers)?;
    let project: ProjectId = name(&project)?;
    let asked = Asked::read(&hub, &body)?;
    let user = of_whom(&asked)?;
    if let Some(role) = &asked.role
        && hub.access.roles().get(role).is_none()
    {
        let message = format!("there is no role `{role}`");
        return Err(Refusal::new(ErrorCode::BadRequest, message).into());
    }
    let (failed, next) = asked.next(&hub, &project, &user).await?;
    let roles = hub.access.roles();
    let standing = hub.access.standing(&user, &project);
    let mut verdicts = Vec::with_capacity(failed.len());
    // In their order; those that were sent under one role share a commit.
    for run in failed.chunk_by(|a, b| a.role == b.role) {
        let role = asked.role.clone().or_else(|| match &standing {
            Standing::Role(role) => Some(role.clone()),
            Standing::Removed => None,
            Standing::Forgotten => RoleName::new(&run[0].role).ok(),
        });
        match role.and_then(|role| roles.get(&role)) {
            Some(role) => {
                let (project, user) = (project.clone(), user.clone());
                let permit = Permit::on_behalf(&admin, project, user, role.clone());
                verdicts.extend(retry(&hub, &permit, run).await?);
            }
            None => verdicts.extend(run.iter().map(without_role)),
        }
    }
    tracing::info!(%project, %user, operations = failed.len(), "an administrator retried failed operations");
    Ok(Json(Retried { verdicts, next }))
}

async fn retry(
    hub: &Hub,
    permit: &Permit,
    failed: &[LaneOp],
) -> Result<Vec<StoredVerdict>, Refusal> {
    let (decided, places) = hub.engine.retry(permit, failed)?;
    Ok(places.fill(decision(decided).await?))
}

/// The user an administrator's request is about.
fn of_whom(asked: &Asked) -> Result<UserId, Refusal> {
    asked.user.clone().ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "name the `user`"))
}

/// The answer for an operation of which nothing says under which role to decide it: it stays as it is.
fn without_role(failed: &LaneOp) -> StoredVerdict {
    let op = failed.op.as_deref().and_then(|raw| Write::op(raw).ok());
    let message = "no role of its user is known here any more; name one as `role`";
    op.map_or_else(|| failed.verdict.clone(), |op| plan::rejected(&op, "forbidden", message))
}

/// How many were taken out.
#[derive(Debug, Serialize)]
pub(super) struct Cleared {
    cleared: u64,
}

/// `POST /v1/sync/failed/clear`: the user's own.
pub(super) async fn clear_mine(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Cleared>, Problem> {
    let grants = grants(&hub, &headers).await?;
    let asked = Asked::read(&hub, &body)?;
    let project = needed(asked.project.clone())?;
    let permit = authorize(&grants, Command::Write(&project))?;
    clear(&hub, &project, permit.user(), &asked).await
}

/// `POST /v1/admin/projects/{project}/sync/failed/clear`: a user's.
pub(super) async fn clear_of(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    body: String,
) -> Result<Json<Cleared>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let project: ProjectId = name(&project)?;
    let asked = Asked::read(&hub, &body)?;
    let user = of_whom(&asked)?;
    tracing::info!(%project, %user, "an administrator clears failed operations");
    clear(&hub, &project, &user, &asked).await
}

async fn clear(
    hub: &Hub,
    project: &ProjectId,
    user: &UserId,
    asked: &Asked,
) -> Result<Json<Cleared>, Problem> {
    let op_ids = asked.op_ids.as_deref();
    let cleared = hub.store.clear_failed(project, user.as_str(), op_ids).await;
    Ok(Json(Cleared { cleared: cleared.map_err(|error| unavailable(&error))? }))
}
