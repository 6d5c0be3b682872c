//! Cache policies over HTTP: clients read those of what they may read, administrators write them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::admin;
use super::api::{done, grants, json, name, unavailable};
use super::problem::Problem;
use crate::hub::Hub;
use crate::id::EntityType;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::policy::CachePolicy;

#[derive(Debug, Serialize)]
struct Policies {
    policies: Vec<Policy>,
}

#[derive(Debug, Serialize)]
struct Policy {
    #[serde(rename = "type")]
    entity_type: EntityType,
    #[serde(flatten)]
    policy: CachePolicy,
}

/// `GET /v1/cache-policies`: those of the types that a role of the caller may read.
pub(super) async fn list(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let grants = grants(&hub, &headers).await?;
    let all = hub.store.cache_policies().await.map_err(|error| unavailable(&error))?;
    let reads =
        |entity_type: &EntityType| grants.projects().any(|(_, role)| role.can_read(entity_type));
    let mine = all.into_iter().filter(|(entity_type, _)| reads(entity_type));
    let policies = mine.map(|(entity_type, policy)| Policy { entity_type, policy }).collect();
    let body =
        serde_json::to_string(&Policies { policies }).map_err(|error| Refusal::internal(&error))?;
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..16]));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|known| matches(known, &tag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    };
    let tag = HeaderValue::try_from(tag).map_err(|error| Refusal::internal(&error))?;
    let out = response.headers_mut();
    out.insert(header::ETAG, tag);
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    out.insert(header::VARY, HeaderValue::from_static("authorization"));
    Ok(response)
}

/// Whether an `If-None-Match` names this tag; the weak comparison of RFC 9110.
fn matches(header: &HeaderValue, tag: &str) -> bool {
    let Ok(list) = header.to_str() else { return false };
    list.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// `PUT /v1/admin/cache-policies/{type}`: sets the policy of a type.
pub(super) async fn put(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(entity_type): Path<String>,
    body: String,
) -> Result<Response, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let entity_type: EntityType = name(&entity_type)?;
    let policy: CachePolicy = json(&body)?;
    policy.check()?;
    let set = hub.store.set_cache_policy(&entity_type, &policy).await;
    if !set.map_err(|error| unavailable(&error))? {
        return Err(Refusal::new(ErrorCode::LimitExceeded, "there are too many policies").into());
    }
    tracing::info!(%entity_type, "an administrator set a cache policy");
    Ok(done())
}

/// `DELETE /v1/admin/cache-policies/{type}`: takes the policy of a type away.
pub(super) async fn delete(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(entity_type): Path<String>,
) -> Result<Response, Problem> {
    let _permit = admin::permit(&hub, &headers)?;
    let entity_type: EntityType = name(&entity_type)?;
    let deleted = hub.store.delete_cache_policy(&entity_type).await;
    if !deleted.map_err(|error| unavailable(&error))? {
        return Err(Refusal::new(ErrorCode::NotFound, "there is no policy for this type").into());
    }
    tracing::info!(%entity_type, "an administrator deleted a cache policy");
    Ok(done())
}
