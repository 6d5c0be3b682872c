//! The one way into the log: queue, group, commit, pass on, answer.
//!
//! Every project has a lane: while one group commits, the next gathers, so a busy project shares one
//! transaction among many operations and an idle one waits for nothing (no linger). SQLite has one writer,
//! hence one lane for all projects. Across instances the project's row lock in the store arbitrates.
//!
//! A verdict is answered only after its commit, while the next group is on its way. A commit whose outcome is
//! unknown is run again: stored verdicts make that safe, and `super::retold` tells what nobody was told of it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::journal::{Journal, Kind, Request};
use super::lane::{Job, Lane};
use super::plan;
use super::retold;
use super::rules::Rules;
use super::submission::{Places, Sent, Submission};
use super::tally;
use crate::auth::{Act, Permit, role_changed};
use crate::clock;
use crate::config;
use crate::fanout::Relay;
use crate::id::ProjectId;
use crate::protocol::client::Write;
use crate::protocol::error::{ErrorCode, Refusal};
use crate::store::{Answer, Batch, Committed, LaneOp, PendingOp, Store, StoreError};
use crate::telemetry::{Dropped, Metrics};

/// How long a group is tried while the store does not answer, before its writers are told.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause between tries; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The answers to one request, in the order of its operations.
pub type Verdicts = Result<Vec<Answer>, Refusal>;

/// Queues, groups and commits operations. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Store,
    relay: Arc<Relay>,
    metrics: Arc<Metrics>,
    limits: config::Store,
    writes: config::Limits,
    rules: Rules,
    journal: Journal,
    lanes: DashMap<Option<ProjectId>, Lane>,
    /// Bytes that may still wait, of all projects together.
    room: Arc<Semaphore>,
    runtime: Handle,
}

impl Engine {
    /// An engine that commits to `store` on the runtime it is made on.
    #[must_use]
    pub fn new(
        store: Store,
        relay: Arc<Relay>,
        metrics: Arc<Metrics>,
        journal: Journal,
        config: &config::Config,
        rules: Rules,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            relay,
            metrics,
            limits: config.store.clone(),
            writes: config.limits.clone(),
            rules,
            journal,
            lanes: DashMap::new(),
            room: Arc::new(Semaphore::new(config.store.queue_bytes.min(Semaphore::MAX_PERMITS))),
            runtime: Handle::current(),
        }))
    }

    /// Queues what a client wrote, and says where the answers belong.
    ///
    /// # Errors
    /// `overloaded` if the project's queue, or that of all projects together, is full.
    pub fn write(
        &self,
        permit: &Permit,
        client: &str,
        write: &Write,
    ) -> Result<(oneshot::Receiver<Verdicts>, Places), Refusal> {
        let request = self.0.journal.request(Kind::Write, permit, client);
        let clock_offset = write.clock_offset(clock::now_ms());
        let sent = Sent { raws: &write.ops, client, clock_offset };
        let read = Submission::read(permit, sent, &self.0.writes, &self.0.rules);
        self.take(permit, read, write.ops.len(), request)
    }

    /// Leaves a record of a request that is refused as a whole.
    pub fn refused(&self, permit: &Permit, client: &str, ops: &[Box<RawValue>], code: ErrorCode) {
        if let Some(mut request) = self.0.journal.request(Kind::Write, permit, client) {
            request.holds(ops.len(), ops.iter().map(|op| op.get().len()).sum(), 0);
            request.refused(code.as_str());
        }
    }

    /// Queues operations of the failed lane, to be decided anew, and says where the answers belong.
    ///
    /// # Errors
    /// `overloaded` if the project's queue, or that of all projects together, is full.
    pub fn retry(
        &self,
        permit: &Permit,
        failed: &[LaneOp],
    ) -> Result<(oneshot::Receiver<Verdicts>, Places), Refusal> {
        let client = failed.first().map_or("", |op| &op.client);
        let request = self.0.journal.request(Kind::Retry, permit, client);
        let read = Submission::again(permit, failed, &self.0.writes, &self.0.rules);
        self.take(permit, read, failed.len(), request)
    }

    fn take(
        &self,
        permit: &Permit,
        read: Submission,
        count: usize,
        mut request: Option<Request>,
    ) -> Result<(oneshot::Receiver<Verdicts>, Places), Refusal> {
        let Submission { ops, bytes, places } = read;
        if let Some(request) = &mut request {
            request.holds(count, bytes, places.filled());
        }
        Ok((self.enqueue(permit, ops, bytes, request)?, places))
    }

    /// Queues operations; those of one caller are decided in the order of the calls. The permit was
    /// checked against each operation by the caller ([`Permit::allows`]).
    ///
    /// # Errors
    /// `overloaded` if the project's queue, or that of all projects together, is full.
    pub fn submit(
        &self,
        permit: &Permit,
        ops: Vec<PendingOp>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Verdicts>, Refusal> {
        self.enqueue(permit, ops, bytes, None)
    }

    fn enqueue(
        &self,
        permit: &Permit,
        ops: Vec<PendingOp>,
        bytes: usize,
        request: Option<Request>,
    ) -> Result<oneshot::Receiver<Verdicts>, Refusal> {
        let (reply, verdicts) = oneshot::channel();
        let project = permit.in_project()?.0.clone();
        let Some(first) = ops.first() else {
            if let Some(request) = request {
                request.answered(&[]);
            }
            let _receiver_is_here = reply.send(Ok(Vec::new()));
            return Ok(verdicts);
        };
        let Some(room) = self.0.room_for(bytes) else {
            return Err(self.0.overloaded(request));
        };
        let key = (!self.0.store.groups_projects()).then(|| project.clone());
        // The entry's guard keeps `retire` from removing the lane between finding and filling it.
        let lane = self.0.lanes.entry(key.clone());
        let new = matches!(lane, dashmap::Entry::Vacant(_));
        let lane = lane.or_default();
        if new {
            // Before anything can be refused: a lane without its task would never be emptied again.
            self.0.runtime.spawn(self.0.clone().run(key));
        }
        let mut queue = lane.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.ops + ops.len() > self.0.limits.queue_ops {
            return Err(self.0.overloaded(request));
        }
        let job = Job {
            project,
            actor: first.actor.clone(),
            role: (permit.act() == Act::Write)
                .then(|| (first.access.role.clone(), permit.is_stored())),
            rank: ops.iter().map(|op| op.op.priority.rank()).min().unwrap_or(u8::MAX),
            count: ops.len(),
            ops,
            bytes,
            queued: Instant::now(),
            request,
            reply,
            room,
        };
        queue.push(job);
        Ok(verdicts)
    }
}

/// Jobs that are committed together.
struct Group {
    jobs: Vec<Job>,
    /// Their operations, one batch a project.
    batches: Vec<(ProjectId, Vec<PendingOp>)>,
}

/// A group that was committed, and nobody was told of yet.
struct Decided {
    group: Group,
    /// In the order of the batches.
    committed: Vec<Committed>,
    /// Whether the commit was run again.
    again: bool,
}

impl Inner {
    /// Room for operations until they are answered; those larger than all there is take all of it.
    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.limits.queue_bytes)).unwrap_or(u32::MAX);
        self.room.clone().try_acquire_many_owned(bytes).ok()
    }

    /// The refusal of what may not wait.
    fn overloaded(&self, request: Option<Request>) -> Refusal {
        if let Some(request) = request {
            request.refused(ErrorCode::Overloaded.as_str());
        }
        self.metrics.drops.of(Dropped::WriteQueue).inc();
        let message = "too many writes wait; send the same operations again later";
        Refusal::new(ErrorCode::Overloaded, message).retry_after(500)
    }

    /// Commits a lane's groups until none is left; the lane exists exactly as long as this runs.
    async fn run(self: Arc<Self>, key: Option<ProjectId>) {
        // What a group made true is told while the next one is committed, and before what that makes true.
        let mut telling: Option<JoinHandle<()>> = None;
        loop {
            let decided = match self.grouped(self.next_group(&key)) {
                Some(group) => self.commit_group(group).await,
                None => None,
            };
            let told_before = telling.take();
            let idle = decided.is_none() && told_before.is_none();
            if let Some(told) = told_before {
                // It ends early only if it panics, which is told elsewhere.
                let _panicked = told.await;
            }
            match decided {
                Some(Ok(decided)) => telling = Some(tokio::spawn(self.clone().tell(decided))),
                Some(Err(spoilt)) => self.commit_one_by_one(spoilt).await,
                None => {}
            }
            if idle {
                let retired = self.lanes.remove_if(&key, |_, lane| {
                    lane.queue.lock().unwrap_or_else(PoisonError::into_inner).jobs.is_empty()
                });
                if retired.is_some() {
                    return;
                }
            }
        }
    }

    fn next_group(&self, key: &Option<ProjectId>) -> Vec<Job> {
        let Some(lane) = self.lanes.get(key) else { return Vec::new() };
        let mut queue = lane.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next_group(&self.limits)
    }

    /// What of the jobs may be committed now.
    fn grouped(&self, jobs: Vec<Job>) -> Option<Group> {
        // They were authorised when they came, and may have waited since.
        let (outdated, mut jobs) = jobs.into_iter().partition(|job| self.role_changed(job));
        turn_away(outdated, &role_changed());
        if jobs.is_empty() {
            return None;
        }
        // One batch a project; a stable sort keeps each project's order.
        jobs.sort_by(|a, b| a.project.cmp(&b.project));
        let mut batches: Vec<(ProjectId, Vec<PendingOp>)> = Vec::new();
        for job in &mut jobs {
            let ops = std::mem::take(&mut job.ops);
            match batches.last_mut() {
                Some((project, batch)) if *project == job.project => batch.extend(ops),
                _ => batches.push((job.project.clone(), ops)),
            }
        }
        Some(Group { jobs, batches })
    }

    /// Commits a group; what was decided is to be told. An error is the group again, of which one operation has
    /// data that the store refuses; none, that all were refused.
    async fn commit_group(&self, group: Group) -> Option<Result<Decided, Group>> {
        match self.commit(&group.batches).await {
            Ok((committed, again)) => Some(Ok(Decided { group, committed, again })),
            Err(StoreError::Data(error)) => {
                tracing::warn!(%error, "the store refused an operation's data; committing one by one");
                Some(Err(group))
            }
            Err(error) => {
                refuse(group.jobs, &error);
                None
            }
        }
    }

    /// Tells everyone what became true, and those who asked what became of it.
    async fn tell(self: Arc<Self>, decided: Decided) {
        let Decided { group: Group { jobs, batches }, committed, again } = decided;
        self.pass_on(&batches, &committed, again).await;
        self.answer(jobs, committed);
    }

    async fn pass_on(
        &self,
        batches: &[(ProjectId, Vec<PendingOp>)],
        committed: &[Committed],
        again: bool,
    ) {
        for (one, (_, ops)) in committed.iter().zip(batches) {
            self.relay.committed(one);
            retold::verdicts(&self.relay, one, ops, again);
            if again {
                retold::tell(&self.store, &self.relay, one, ops).await;
            }
        }
    }

    /// Whether its user has another role now.
    fn role_changed(&self, job: &Job) -> bool {
        let changed = |(role, stored): &(Box<str>, bool)| {
            self.relay.role_changed(&job.actor.user, &job.project, (role, *stored))
        };
        job.role.as_ref().is_some_and(changed)
    }

    /// Runs a commit until its outcome is known, or patience ends; whether it was run again.
    async fn commit(
        &self,
        batches: &[(ProjectId, Vec<PendingOp>)],
    ) -> Result<(Vec<Committed>, bool), StoreError> {
        let rules = &self.rules;
        self.commit_with(batches, &|s, ops, now| plan::plan(s, ops, now, rules)).await
    }

    async fn commit_with(
        &self,
        batches: &[(ProjectId, Vec<PendingOp>)],
        plan: &(dyn Fn(&crate::store::Snapshot, &[PendingOp], i64) -> crate::store::Effects + Sync),
    ) -> Result<(Vec<Committed>, bool), StoreError> {
        let batches: Vec<Batch<'_>> =
            batches.iter().map(|(project, ops)| Batch { project, ops }).collect();
        let ops = batches.iter().map(|batch| batch.ops.len()).sum::<usize>();
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        let mut again = false;
        loop {
            match self.store.commit(&batches, clock::now_ms(), plan).await {
                Ok(committed) => {
                    self.metrics.group_ops.observe(ops as f64);
                    return Ok((committed, again));
                }
                Err(error) if error.retryable() && Instant::now() + pause < deadline => {
                    again = true;
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "a commit failed or its outcome is unknown; running it again");
                    sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    self.metrics.store_errors.inc();
                    return Err(error);
                }
            }
        }
    }

    /// Finds the operation whose data the store refuses, so that it, or its group, alone is rejected.
    async fn commit_one_by_one(&self, group: Group) {
        let Group { jobs, batches } = group;
        let rules = &self.rules;
        let mut all = Vec::new();
        for (project, ops) in batches {
            let mut whole: Option<Committed> = None;
            for unit in plan::units(&ops) {
                let one = [(project.clone(), unit.to_vec())];
                let committed = match self.commit(&one).await {
                    Err(StoreError::Data(_)) => {
                        self.commit_with(&one, &|s, ops, now| plan::reject(s, ops, now, rules))
                            .await
                    }
                    other => other,
                };
                match committed {
                    Ok((mut committed, again)) => {
                        self.pass_on(&one, &committed, again).await;
                        let next = committed.pop().expect("one batch gives one commit");
                        match &mut whole {
                            Some(whole) => whole.answers.extend(next.answers),
                            None => whole = Some(next),
                        }
                    }
                    Err(error) => return refuse(jobs, &error),
                }
            }
            all.extend(whole);
        }
        self.answer(jobs, all);
    }

    fn answer(&self, jobs: Vec<Job>, committed: Vec<Committed>) {
        let mut answers = committed.into_iter().map(|c| (c.project, c.answers.into_iter()));
        let mut current = answers.next();
        for job in jobs {
            while current.as_ref().is_some_and(|(project, _)| *project != job.project) {
                current = answers.next();
            }
            let Some((_, answers)) = &mut current else { break };
            let verdicts: Vec<Answer> = answers.by_ref().take(job.count).collect();
            verdicts.iter().for_each(|answer| tally::count(&self.metrics, answer));
            if let Some(request) = job.request {
                request.answered(&verdicts);
            }
            self.metrics.write_seconds.observe(job.queued.elapsed().as_secs_f64());
            drop(job.room); // before the answer: whoever hears it may write again at once
            // Nobody waits any more if the connection is gone; a retry gets the stored verdict.
            let _gone = job.reply.send(Ok(verdicts));
        }
    }
}

fn refuse(jobs: Vec<Job>, error: &StoreError) {
    let refusal = if error.retryable() {
        tracing::error!(%error, "gave up a group of writes");
        Refusal::new(
            ErrorCode::Unavailable,
            "the store does not answer; send the same operations with the same op_ids again",
        )
        .retry_after(1000)
    } else {
        Refusal::internal(error)
    };
    turn_away(jobs, &refusal);
}

fn turn_away(jobs: Vec<Job>, refusal: &Refusal) {
    for job in jobs {
        if let Some(request) = job.request {
            request.refused(refusal.code.as_str());
        }
        drop(job.room);
        let _gone = job.reply.send(Err(refusal.clone()));
    }
}
