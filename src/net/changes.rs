//! `GET /v1/projects/{project}/changes`: delta sync over HTTP, written while it is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::api::{name, unavailable};
use super::caller::Caller;
use super::problem::Problem;
use crate::auth::Role;
use crate::hub::Hub;
use crate::id::{EntityKey, EntityType, Epoch, ProjectId, Room, Seq};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::Fields;
use crate::protocol::server::ResyncReason;
use crate::protocol::sums::BucketSet;
use crate::store::DeltaRow;
use crate::sync::delta::{self, Cursor, DeltaError, Reading, Wanted};

/// How long a reply is added to; then it ends as if it were full. A token is believed no longer.
const LONGEST: Duration = Duration::from_secs(30);
/// Types one request may name.
const MOST_TYPES: usize = 64;

/// What is asked.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    since: Seq,
    /// The epoch `since` belongs to.
    epoch: Option<Epoch>,
    /// The scope `since` belongs to.
    scope: Option<String>,
    /// From a reply with `more` that began at 0.
    begun: Option<Seq>,
    limit: Option<u32>,
    /// Types, separated by commas.
    types: Option<String>,
    /// Buckets of the checksum, separated by commas.
    buckets: Option<String>,
}

/// The types a request names, each once.
pub(super) fn types(list: Option<&str>) -> Result<Option<Box<[EntityType]>>, Refusal> {
    let Some(list) = list else { return Ok(None) };
    let types = list.split(',').map(name).collect::<Result<BTreeSet<EntityType>, _>>()?;
    if types.len() > MOST_TYPES {
        return Err(Refusal::limit("types", MOST_TYPES as u64));
    }
    Ok(Some(types.into_iter().collect()))
}

/// The latest state of everything that changed after `since`.
pub(super) async fn changes(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    Path(project): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let project: ProjectId = name(&project)?;
    let caller = Caller::reads(&hub, &headers, Room::Project(project.clone())).await?;
    let (_, role) = caller.permit().in_project()?;
    let buckets = asked.buckets.as_deref().map(|list| {
        let wrong = "`buckets` are numbers below 64, separated by commas";
        BucketSet::parse(list).ok_or_else(|| Refusal::new(ErrorCode::BadRequest, wrong))
    });
    let wanted = Wanted {
        role: role.clone(),
        types: types(asked.types.as_deref())?,
        buckets: buckets.transpose()?,
    };
    let limits = &hub.config.limits;
    let room = match asked.limit {
        Some(limit) => delta::Room { rows: limit.clamp(1, limits.delta_rows), bytes: u64::MAX },
        None => delta::Room { rows: limits.page_changes, bytes: limits.body_bytes as u64 },
    };
    let cursor = Cursor {
        since: asked.since,
        epoch: asked.epoch,
        begun: asked.begun,
        scope_changed: asked.scope.as_deref().is_some_and(|scope| scope != role.scope()),
    };
    let begun = hub.deltas.begin(&project, wanted, cursor, room).await;
    let (reading, rows) = begun.map_err(|error| unavailable(&error))?;
    caller.still()?;
    let mut text = Vec::from(*b"{\"changes\":[");
    let until = Instant::now() + LONGEST;
    let role = role.clone();
    let rest = Rest { reading: Some(reading), caller, role, empty: true, until };
    let rest = rest.write(&rows, &mut text);
    let body = match rest.reading {
        None => Body::from(text),
        Some(_) => {
            let first = stream::iter([Ok(Bytes::from(text))]);
            let rest = stream::try_unfold(rest, Rest::piece);
            Body::from_stream(futures_util::StreamExt::chain(first, rest))
        }
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A reply of which a part is written.
struct Rest {
    caller: Caller,
    /// None once the end is written.
    reading: Option<Reading>,
    role: Arc<Role>,
    /// Whether no row was written yet.
    empty: bool,
    until: Instant,
}

impl Rest {
    /// The next part. An error here ends the connection in the middle of the body: the client sees that the
    /// reply is not whole, and asks again.
    async fn piece(mut self) -> Result<Option<(Bytes, Self)>, DeltaError> {
        let Some(reading) = &mut self.reading else { return Ok(None) };
        let rows = reading.next().await.inspect_err(|error| {
            tracing::warn!(%error, "a delta ended early");
        })?;
        self.caller.still().map_err(|_| DeltaError::RoleChanged)?;
        let mut text = Vec::new();
        let rest = self.write(&rows.unwrap_or_default(), &mut text);
        Ok(Some((text.into(), rest)))
    }

    /// Writes rows, and the end if this is it.
    fn write(mut self, rows: &[DeltaRow], text: &mut Vec<u8>) -> Self {
        for row in rows {
            if !std::mem::take(&mut self.empty) {
                text.push(b',');
            }
            put_row(text, row, &self.role);
        }
        let over = Instant::now() > self.until;
        if let Some(reading) = self.reading.take_if(|reading| reading.is_full() || over) {
            text.extend_from_slice(b"],");
            let at = text.len();
            put(text, &End::new(&reading, &self.role));
            text.remove(at); // its brace: the rows' object goes on
        }
        self
    }
}

/// Writes what has string keys, so it cannot fail.
fn put(text: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(text, value).expect("a Vec takes everything");
}

#[derive(Serialize)]
struct Row<'a, F> {
    entity: &'a EntityKey,
    version: Seq,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    fields: F,
}

/// Writes a row with the fields the role may read: as they are stored, if it may read them all.
fn put_row(text: &mut Vec<u8>, row: &DeltaRow, role: &Role) {
    let DeltaRow { key: entity, version, deleted, fields } = row;
    let (version, deleted) = (*version, *deleted);
    if role.hidden(&entity.kind).is_empty() {
        return put(text, &Row { entity, version, deleted, fields });
    }
    let mut fields: Fields = serde_json::from_str(fields.get()).unwrap_or_default();
    role.redact(&entity.kind, &mut fields);
    put(text, &Row { entity, version, deleted, fields });
}

/// What follows the rows.
#[derive(Serialize)]
struct End<'a> {
    /// The cursor to store with these rows, and to ask on from.
    next: Seq,
    /// Whether another page follows now.
    more: bool,
    epoch: Epoch,
    /// What the role may read; to bring along with the cursor.
    scope: &'a str,
    /// To bring along while `more`.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<Seq>,
    /// The cursor was of no use: this page begins anew, and with those that follow it is all there is.
    /// Drop what they do not name.
    #[serde(skip_serializing_if = "Option::is_none")]
    resync: Option<ResyncReason>,
}

impl<'a> End<'a> {
    fn new(reading: &Reading, role: &'a Role) -> Self {
        Self {
            next: reading.cursor(),
            more: reading.more(),
            epoch: reading.epoch(),
            scope: role.scope(),
            begun: reading.begun(),
            resync: reading.resync(),
        }
    }
}
