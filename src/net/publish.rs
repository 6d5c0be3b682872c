//! `POST /v1/publish`: events of backends over HTTP, answered with what became of each.
//!
//! Asked for: the admin token, or a signature over the whole body by the source that the events name.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use serde::Serialize;
use serde_json::value::RawValue;

use super::admin;
use super::api::json;
use super::problem::Problem;
use crate::auth::{IngestAuthority, ingest_authority};
use crate::hub::Hub;
use crate::ingest::event::{Event, fresh_id};
use crate::ingest::{Applied, Authorized, Failed};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::telemetry::{IngestOutcome, IngestWay};

/// Where a source puts its signature.
const SIGNATURE: &str = "x-syncline-signature";

/// What became of each event, in their order.
#[derive(Debug, Serialize)]
pub struct Published {
    results: Vec<Answer>,
}

/// What became of one.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer {
    Applied(Applied),
    Rejected { outcome: &'static str, code: String, message: String },
}

impl From<Failed> for Answer {
    fn from(failed: Failed) -> Self {
        let (code, message) = match failed {
            Failed::Unfit { code, message } => (code, message),
            Failed::NotNow(refusal) => (refusal.code.as_str().to_owned(), refusal.message),
        };
        Self::Rejected { outcome: "rejected", code, message }
    }
}

/// Applies one event, or an array of them.
///
/// # Errors
/// Nobody vouches for the events, the body is not JSON, or the store does not answer: then the fate of all
/// of them is unknown, and the same request may be sent again.
pub async fn publish(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    body: String,
) -> Result<Json<Published>, Problem> {
    let raws: Vec<&RawValue> =
        if body.trim_start().starts_with('[') { json(&body)? } else { vec![json(&body)?] };
    let limit = hub.config.limits.ops_per_write;
    if raws.len() > limit {
        return Err(Refusal::limit("ops_per_write", limit as u64).into());
    }
    let events: Vec<_> = raws.iter().map(|raw| hub.ingest.decode(raw.get().as_bytes())).collect();
    let authority = Arc::new(authority(&hub, &headers, &body, &events).inspect_err(|_| {
        hub.ingest.failed(IngestWay::Http, IngestOutcome::Refused);
    })?);
    let mut answers: Vec<Option<Answer>> = Vec::with_capacity(events.len());
    let mut fit = Vec::with_capacity(events.len());
    for event in events {
        answers.push(match event {
            Ok(event) => {
                fit.push(Authorized::new(event, &authority).or_id(fresh_id));
                None
            }
            Err(failed) => Some(failed.into()),
        });
    }
    // On the runtime of everything that is not a connection, so that it is finished whoever hangs up.
    let ingest = hub.ingest.clone();
    let applying = hub.runtime.spawn(async move { ingest.apply(IngestWay::Http, &fit).await });
    let fates = applying.await.map_err(|error| Refusal::internal(&error))?;
    if let Some(refusal) = fates.iter().find_map(not_now) {
        return Err(refusal.into());
    }
    let mut fates = fates.into_iter().map(|fate| fate.map_or_else(Answer::from, Answer::Applied));
    let results: Vec<_> =
        answers.into_iter().filter_map(|answer| answer.or_else(|| fates.next())).collect();
    for _ in results.iter().filter(|answer| matches!(answer, Answer::Rejected { .. })) {
        hub.ingest.failed(IngestWay::Http, IngestOutcome::Refused);
    }
    Ok(Json(Published { results }))
}

/// Whether it may be a source that signed.
pub(super) fn is_signed(hub: &Hub, headers: &HeaderMap) -> bool {
    // Without sources, a signature proves nothing; unlike Redis, HTTP is open to strangers.
    !hub.config.ingest.sources.is_empty()
        && !headers.contains_key(header::AUTHORIZATION)
        && headers.contains_key(SIGNATURE)
}

fn not_now(fate: &Result<Applied, Failed>) -> Option<Refusal> {
    match fate {
        Err(Failed::NotNow(refusal)) => Some(refusal.clone()),
        _ => None,
    }
}

/// Who vouches for the events.
fn authority(
    hub: &Hub,
    headers: &HeaderMap,
    body: &str,
    events: &[Result<Event, Failed>],
) -> Result<IngestAuthority, Refusal> {
    if headers.contains_key(header::AUTHORIZATION) {
        return Ok(IngestAuthority::from(&admin::permit(hub, headers)?));
    }
    if !is_signed(hub, headers) {
        return Err(Refusal::new(
            ErrorCode::Unauthorized,
            "send the admin token as `Authorization: Bearer …`, or sign the body as a source",
        ));
    }
    let mut sources = events.iter().flatten().map(|event| event.source.as_deref());
    let source = sources.next().flatten();
    if sources.any(|other| other != source) {
        return Err(Refusal::new(
            ErrorCode::Unauthorized,
            "all events of a signed request must name the same source",
        ));
    }
    let sig = headers.get(SIGNATURE).and_then(|sig| sig.to_str().ok());
    ingest_authority(&hub.config.ingest, body.as_bytes(), source, sig)
}
