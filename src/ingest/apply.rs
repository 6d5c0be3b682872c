//! The one way in for events, whichever way they came.
//!
//! Writes go to the engine, those of one project together and in their order; the store's verdict for the
//! event's id makes each of them happen once. Broadcasts go to the relay, at most once per id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisResult;
use serde::Serialize;

use super::claims::Claims;
use super::event::{Body, Broadcast, Event, EventError};
use crate::auth::{IngestAuthority, Permit, ingest_authority};
use crate::bus::RedisLink;
use crate::config::{self, Config};
use crate::fanout::Relay;
use crate::id::{OpId, ProjectId, Seq};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::protocol::op::{Outcome, Verdict};
use crate::protocol::server::ServerFrame;
use crate::store::{Answer, PendingOp};
use crate::sync::engine::Engine;
use crate::sync::plan;
use crate::telemetry::{IngestOutcome, IngestWay, Metrics};

/// How long a broadcast's id is remembered.
const BROADCAST_MEMORY: Duration = Duration::from_secs(300);
/// Characters of a reason that goes to a backend or into a dead letter.
const REASON: usize = 400;

/// Applies events. Cheap to clone.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    engine: Engine,
    relay: Arc<Relay>,
    metrics: Arc<Metrics>,
    claims: Claims,
    config: config::Ingest,
    limits: config::Limits,
}

/// An event of somebody who may publish.
#[derive(Debug, Clone)]
pub struct Authorized {
    /// The event.
    pub event: Arc<Event>,
    authority: Arc<IngestAuthority>,
}

impl Authorized {
    /// An event somebody with this authority vouches for.
    #[must_use]
    pub fn new(event: Event, authority: &Arc<IngestAuthority>) -> Self {
        Self { event: Arc::new(event), authority: authority.clone() }
    }

    /// The event under this id, unless it brought one.
    #[must_use]
    pub fn or_id(mut self, id: impl FnOnce() -> OpId) -> Self {
        if let Some(event) = Arc::get_mut(&mut self.event) {
            event.id.get_or_insert_with(id);
        }
        self
    }
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Its id, given by the hub if it brought none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<OpId>,
    /// `applied`, or `noop` if nothing was to be changed.
    pub outcome: Outcome,
    /// The change's position in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// The entity's version after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Seq>,
    /// Whether this is the answer to an earlier delivery of the same id.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// `stale`: the source has sent a newer version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// Why an event was not applied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failed {
    /// It never can be: it is malformed, nobody vouches for it, or the log refuses it.
    #[error("{message}")]
    Unfit {
        /// Why, for programs.
        code: String,
        /// Why, for people.
        message: String,
    },
    /// The hub could not: its fate is unknown, and the same event may be tried again.
    #[error("{}", .0.message)]
    NotNow(Refusal),
}

impl Failed {
    fn unfit(code: &str, message: &str) -> Self {
        let message = message.chars().take(REASON).collect();
        Self::Unfit { code: code.to_owned(), message }
    }
}

impl From<EventError> for Failed {
    fn from(error: EventError) -> Self {
        Self::unfit(error.code(), &error.to_string())
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::Internal => {
                Self::NotNow(refusal)
            }
            code => Self::unfit(code.as_str(), &refusal.message),
        }
    }
}

/// What became of one event.
pub type Fate = Result<Applied, Failed>;

impl Ingest {
    /// Applies events to `engine` and `relay`. Without a link this is the only instance.
    #[must_use]
    pub fn new(
        config: &Config,
        engine: Engine,
        relay: Arc<Relay>,
        metrics: Arc<Metrics>,
        link: Option<RedisLink>,
    ) -> Self {
        let claims = match link {
            Some(link) => Claims::Redis(link, config.bus.prefix.clone()),
            None => Claims::Local(Mutex::default()),
        };
        Self(Arc::new(Inner {
            engine,
            relay,
            metrics,
            claims,
            config: config.ingest.clone(),
            limits: config.limits.clone(),
        }))
    }

    /// Reads an event.
    ///
    /// # Errors
    /// It is malformed.
    pub fn decode(&self, raw: &[u8]) -> Result<Event, Failed> {
        Ok(Event::decode(raw, &self.0.limits)?)
    }

    /// Reads an event that came with a signature, or with none.
    ///
    /// # Errors
    /// It is malformed, or signatures are asked for and its is not right.
    pub fn read(&self, raw: &[u8], sig: Option<&str>) -> Result<Authorized, Failed> {
        let event = self.decode(raw)?;
        let authority = ingest_authority(&self.0.config, raw, event.source.as_deref(), sig)?;
        Ok(Authorized::new(event, &Arc::new(authority)))
    }

    /// Applies events in their order, and says of each what became of it. When one of a project's events
    /// is [`Failed::NotNow`], so are all of that project's writes: none overtakes another.
    pub async fn apply(&self, way: IngestWay, events: &[Authorized]) -> Vec<Fate> {
        let mut fates: Vec<Option<Fate>> = Vec::new();
        fates.resize_with(events.len(), || None);
        let mut projects: HashMap<&ProjectId, Vec<(usize, PendingOp)>> = HashMap::new();
        for (index, authorized) in events.iter().enumerate() {
            if let Some(op) = authorized.event.operation() {
                projects.entry(&authorized.event.project).or_default().push((index, op));
            }
        }
        let writes = projects.into_values().map(|ops| self.write(events, ops));
        for (index, fate) in join_all(writes).await.into_iter().flatten() {
            fates[index] = Some(fate);
        }
        for (authorized, fate) in events.iter().zip(&mut fates) {
            if let Body::Broadcast(broadcast) = &authorized.event.body {
                *fate = Some(self.broadcast(&authorized.event, broadcast).await);
            }
        }
        let fates: Vec<Fate> = fates.into_iter().flatten().collect();
        fates.iter().flatten().for_each(|applied| self.count(way, applied));
        fates
    }

    /// Commits some of one project's events.
    async fn write(
        &self,
        events: &[Authorized],
        ops: Vec<(usize, PendingOp)>,
    ) -> Vec<(usize, Fate)> {
        let (indices, ops): (Vec<_>, Vec<_>) = ops.into_iter().unzip();
        match self.submit(events, &indices, ops).await {
            Ok(answers) => indices.into_iter().zip(answers.iter().map(fate)).collect(),
            Err(refusal) => {
                indices.into_iter().map(|at| (at, Err(refusal.clone().into()))).collect()
            }
        }
    }

    async fn submit(
        &self,
        events: &[Authorized],
        indices: &[usize],
        ops: Vec<PendingOp>,
    ) -> Result<Vec<Answer>, Refusal> {
        let first = &events[indices[0]];
        let Event { project, actor, .. } = &*first.event;
        let permit = Permit::backend(&first.authority, project.clone(), actor.clone());
        for op in &ops {
            permit.allows(&op.op)?;
        }
        let bytes = indices.iter().map(|at| events[*at].event.bytes).sum();
        self.0.engine.submit(&permit, ops, bytes)?.await.unwrap_or_else(|_| {
            Err(Refusal::new(ErrorCode::Unavailable, "the hub stopped; send it again"))
        })
    }

    /// At most once per id. If nobody can tell whether it was said, it is said.
    async fn broadcast(&self, event: &Event, broadcast: &Broadcast) -> Fate {
        let mut duplicate = false;
        if let Some(id) = &event.id {
            let name = format!("said:{id}");
            let taken = self.0.claims.take(&event.project, &name, BROADCAST_MEMORY).await;
            duplicate = taken.is_ok_and(|first| !first);
        }
        if !duplicate {
            let Broadcast { room, event, data } = broadcast;
            let frame = ServerFrame::Event { room, event, data: data.as_deref(), from: None };
            self.0.relay.event(&Arc::new(room.clone()), &frame.encode(), None);
        }
        let outcome = if duplicate { Outcome::Noop } else { Outcome::Applied };
        let id = event.id.clone();
        Ok(Applied { id, outcome, seq: None, version: None, duplicate, code: None })
    }

    fn count(&self, way: IngestWay, applied: &Applied) {
        let outcome = if applied.duplicate {
            IngestOutcome::Duplicate
        } else if applied.code.as_deref() == Some(plan::STALE) {
            IngestOutcome::Stale
        } else {
            IngestOutcome::Applied
        };
        self.failed(way, outcome);
    }

    /// Counts an event that came to another end than being applied.
    pub(crate) fn failed(&self, way: IngestWay, outcome: IngestOutcome) {
        self.0.metrics.ingest_events.of((way, outcome)).inc();
    }

    /// Claims the work on an event that every instance hears.
    pub(super) async fn claim(
        &self,
        project: &ProjectId,
        name: &str,
        hold: Duration,
    ) -> RedisResult<bool> {
        self.0.claims.take(project, name, hold).await
    }

    /// Gives such a claim back.
    pub(super) async fn give_back(&self, project: &ProjectId, name: &str) {
        self.0.claims.give_back(project, name).await;
    }
}

fn fate(answer: &Answer) -> Fate {
    let verdict: Verdict = serde_json::from_str(answer.verdict().get())
        .map_err(|error| Failed::NotNow(Refusal::internal(&error)))?;
    match verdict.outcome {
        Outcome::Applied | Outcome::Noop => Ok(Applied {
            id: Some(verdict.op_id),
            outcome: verdict.outcome,
            seq: verdict.seq,
            version: verdict.version,
            duplicate: matches!(answer, Answer::Replayed(_)),
            code: verdict.code,
        }),
        Outcome::Merged | Outcome::Superseded | Outcome::Conflict | Outcome::Rejected => {
            Err(Failed::unfit(
                verdict.code.as_deref().unwrap_or("rejected"),
                verdict.message.as_deref().unwrap_or("the log refuses the event"),
            ))
        }
    }
}
