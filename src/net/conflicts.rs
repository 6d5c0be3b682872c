//! The HTTP endpoints of conflicts: a user's own, all of a project for its back office, and why a field
//! of an entity is what it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admin;
use super::api::{name, unavailable};
use super::caller::Caller;
use super::problem::Problem;
use crate::auth::Role;
use crate::hub::Hub;
use crate::id::{ConflictId, EntityId, EntityKey, EntityType, OpId, ProjectId, Room, Seq};
use crate::protocol::conflict::{Conflict, ConflictState};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::Outcome;
use crate::store::{ConflictPage, ConflictQuery, EntityRow, Stamp, Submitted};

/// Entries on one page.
const PAGE: u32 = 200;

#[derive(Debug, Default, Deserialize)]
pub(super) struct Filter {
    user: Option<String>,
    state: Option<ConflictState>,
    outcome: Option<Outcome>,
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    before: Option<ConflictId>,
    limit: Option<u32>,
}

/// Entries of the conflict log, the newest first.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    conflicts: Vec<Conflict>,
    /// Ask on with this as `before`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<ConflictId>,
}

/// `GET /v1/projects/{project}/conflicts`: the user's own.
pub(super) async fn mine(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page>, Problem> {
    let project: ProjectId = name(&project)?;
    let caller = Caller::reads(&hub, &headers, Room::Project(project.clone())).await?;
    let permit = caller.permit();
    let (_, role) = permit.in_project()?;
    let filter = Filter { user: Some(permit.user().to_string()), ..filter };
    let mut page = page(&hub, &project, filter).await?;
    caller.still()?;
    page.conflicts.retain_mut(|conflict| visible(role, conflict));
    Ok(Json(page))
}

/// `GET /v1/admin/projects/{project}/conflicts`: everybody's.
pub(super) async fn all(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page>, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    Ok(Json(page(&hub, &name(&project)?, filter).await?))
}

/// One page, with no more values than a request's body may have.
async fn page(hub: &Hub, project: &ProjectId, filter: Filter) -> Result<Page, Refusal> {
    let Filter { user, state, outcome, kind, id, before, limit } = filter;
    let limit = limit.unwrap_or(PAGE).clamp(1, PAGE);
    let bytes = hub.config.limits.body_bytes;
    let query = ConflictQuery { user, state, outcome, kind, id, before, limit, bytes };
    let found = hub.store.conflicts(project, &query).await;
    let ConflictPage { conflicts, next } = found.map_err(|error| unavailable(&error))?;
    Ok(Page { conflicts, next })
}

/// Takes out what the role does not see; whether anything is left.
fn visible(role: &Role, conflict: &mut Conflict) -> bool {
    let kind = &conflict.entity.kind;
    conflict.fields.retain(|field| !role.hides(kind, &field.name));
    role.can_read(kind)
}

#[derive(Debug, Deserialize)]
pub(super) struct Explain {
    field: Option<String>,
    before: Option<ConflictId>,
}

/// Why an entity is what it is.
#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    version: Seq,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// Of what is deleted: by what.
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion: Option<Setting>,
    fields: Vec<FieldStory>,
    /// Whom it met: the entries about the entity, or about the field that is asked for, the newest first.
    #[serde(flatten)]
    met: Page,
}

/// Who set a field, and on the ground of what.
#[derive(Debug, Serialize)]
struct FieldStory {
    field: String,
    value: Value,
    set: Setting,
}

#[derive(Debug, Serialize)]
struct Setting {
    /// The change's position.
    seq: Seq,
    /// The installation, if it is the asker's own: nobody else needs to know its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_id: Option<OpId>,
    /// When the user made the edit, in milliseconds since the Unix epoch.
    edited_at: i64,
    /// What is kept of the operation; its verdict may have outlived its use.
    #[serde(flatten)]
    operation: Option<Submitted>,
}

/// `GET /v1/projects/{project}/entities/{type}/{id}/explain?field=`: of one field, or of all.
pub(super) async fn explain(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path((project, kind, id)): Path<(String, String, String)>,
    Query(wanted): Query<Explain>,
) -> Result<Json<Explanation>, Problem> {
    let project: ProjectId = name(&project)?;
    let key = EntityKey { kind: name::<EntityType>(&kind)?, id: name::<EntityId>(&id)? };
    let caller = Caller::reads(&hub, &headers, Room::Entity(project.clone(), key.clone())).await?;
    let permit = caller.permit();
    let (_, role) = permit.in_project()?;
    let unknown = |what| Refusal::new(ErrorCode::NotFound, what);
    let row = hub.store.entity(&project, &key).await.map_err(|error| unavailable(&error))?;
    let mut row = row.ok_or_else(|| unknown("there is no such entity"))?;
    row.fields.retain(|field, _| {
        !role.hides(&key.kind, field) && wanted.field.as_ref().is_none_or(|wanted| wanted == field)
    });
    if wanted.field.is_some() && row.fields.is_empty() && !row.deleted {
        return Err(unknown("there is no such field").into());
    }
    let deletion = row.stamps.made().filter(|_| row.deleted);
    let stamps = row.fields.keys().filter_map(|field| row.stamps.of(field)).chain(deletion);
    let op_ids: Vec<OpId> = stamps.filter_map(operation_of).collect();
    let operations = hub.store.submitted(&project, &op_ids).await;
    let operations = operations.map_err(|error| unavailable(&error))?;
    let about =
        Filter { kind: Some(kind), id: Some(id), before: wanted.before, ..Filter::default() };
    let mut met = page(&hub, &project, about).await?;
    caller.still()?;
    met.conflicts.retain_mut(|conflict| visible(role, conflict));
    if let Some(field) = wanted.field.filter(|_| !row.deleted) {
        met.conflicts.retain_mut(|conflict| {
            conflict.fields.retain(|met| met.name == field);
            !conflict.fields.is_empty()
        });
    }
    let asker = permit.user().as_str();
    for conflict in met.conflicts.iter_mut().filter(|conflict| conflict.user != asker) {
        conflict.client.clear();
    }
    let EntityRow { version, deleted, fields, stamps, .. } = row;
    let setting = |stamp: &Stamp| {
        let op_id = operation_of(stamp);
        let operation = operations.iter().find(|one| Some(&one.op_id) == op_id.as_ref()).cloned();
        let (seq, edited_at) = (stamp.0, stamp.3);
        let client = stamp.1.split_once(':').filter(|(user, _)| *user == asker);
        let client = client.map(|(_, client)| client.to_owned());
        Setting { seq, client, op_id, edited_at, operation }
    };
    let story = |(field, value): (String, Value)| {
        let set = setting(stamps.of(&field)?);
        Some(FieldStory { field, value, set })
    };
    let fields = fields.into_iter().filter_map(story).collect();
    let deletion = stamps.made().filter(|_| deleted).map(setting);
    Ok(Json(Explanation { version, deleted, deletion, fields, met }))
}

fn operation_of(stamp: &Stamp) -> Option<OpId> {
    OpId::new(&stamp.2).ok()
}
