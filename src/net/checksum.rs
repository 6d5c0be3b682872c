//! `GET /v1/projects/{project}/checksum`: whether a client's copy is right, bucket by bucket.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::api::{name, spend, unavailable};
use super::caller::Caller;
use super::changes::types;
use super::problem::Problem;
use crate::hub::Hub;
use crate::id::{Epoch, ProjectId, Room, Seq};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::sums::Bucket;
use crate::sync::checksums::ChecksumError;
use crate::sync::delta::Wanted;

/// When to ask again if too many wait.
const WAIT_MS: u64 = 5_000;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// Types, separated by commas.
    types: Option<String>,
}

/// The checksum of all living entities the role may read, of the types asked for.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// The position it is good for.
    head: Seq,
    epoch: Epoch,
    scope: String,
    buckets: Vec<Bucket>,
}

/// What a client's copy adds up to if it is right.
pub(super) async fn checksum(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Answer>, Problem> {
    let project: ProjectId = name(&project)?;
    let caller = Caller::reads(&hub, &headers, Room::Project(project.clone())).await?;
    let permit = caller.permit();
    let (_, role) = permit.in_project()?;
    let types = types(asked.types.as_deref())?;
    spend(&hub, permit, 1)?;
    let wanted = Wanted { role: role.clone(), types, buckets: None };
    let sum = hub.checksums.read(&project, &wanted).await.map_err(|error| refusal(&error))?;
    caller.still()?;
    Ok(Json(Answer {
        head: sum.head,
        epoch: sum.epoch,
        scope: role.scope().to_owned(),
        buckets: sum.sums.0.into(),
    }))
}

fn refusal(error: &ChecksumError) -> Refusal {
    match error {
        ChecksumError::Store(error) => unavailable(error),
        ChecksumError::Busy => {
            let message = "too many projects wait for their checksum; ask again";
            Refusal::new(ErrorCode::Overloaded, message).retry_after(WAIT_MS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_too_many_waiting_is_told_when_to_come_again() {
        let refusal = refusal(&ChecksumError::Busy);
        assert_eq!((refusal.code, refusal.retry_after_ms), (ErrorCode::Overloaded, Some(WAIT_MS)));
    }
}
