//! What waits for a project's next commit: requests in their order, urgent ones ahead.
//!
//! Filled and emptied by [`super::engine`].

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::engine::Verdicts;
use super::journal::Request;
use crate::config;
use crate::id::{EntityRef, EntityType, ProjectId};
use crate::store::{Actor, PendingOp};

/// The queue of one project, or of all for a store with one writer.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) jobs: VecDeque<Job>,
    /// Operations in all of them: counted here, because a full queue would be walked for every new one.
    pub(super) ops: usize,
}

impl Queue {
    /// Puts a job behind all but the less urgent ones of others about other entities.
    pub(super) fn push(&mut self, job: Job) {
        let mut about: Option<HashSet<_>> = None;
        let overtaken = |other: &&Job| {
            other.rank > job.rank
                && other.actor != job.actor
                && (other.project != job.project
                    || about
                        .get_or_insert_with(|| job.entities().collect())
                        .is_disjoint(&other.entities().collect()))
        };
        let place = self.jobs.len() - self.jobs.iter().rev().take_while(overtaken).count();
        self.ops += job.count;
        self.jobs.insert(place, job);
    }

    /// Takes the jobs that are committed together: the first, and as many as fit beside it.
    pub(super) fn next_group(&mut self, limits: &config::Store) -> Vec<Job> {
        let (mut ops, mut bytes) = (0, 0);
        let fits = |job: &&Job| {
            let first = ops == 0;
            ops += job.count;
            bytes += job.bytes;
            first || (ops <= limits.group_ops && bytes <= limits.group_bytes)
        };
        let count = self.jobs.iter().take_while(fits).count();
        let group: Vec<Job> = self.jobs.drain(..count).collect();
        self.ops -= group.iter().map(|job| job.count).sum::<usize>();
        group
    }
}

/// One request's operations.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) project: ProjectId,
    /// Who sent them: those of one installation keep their order.
    pub(super) actor: Actor,
    /// The role they were authorised under, if it must be the user's still when they are decided, and whether it
    /// is a stored one.
    pub(super) role: Option<(Box<str>, bool)>,
    /// How urgent the most urgent of them is, 0 the most.
    pub(super) rank: u8,
    pub(super) ops: Vec<PendingOp>,
    pub(super) count: usize,
    pub(super) bytes: usize,
    pub(super) queued: Instant,
    /// The record of the client's request.
    pub(super) request: Option<Request>,
    pub(super) reply: oneshot::Sender<Verdicts>,
    /// Its bytes' room among all that wait, until it is answered.
    pub(super) room: OwnedSemaphorePermit,
}

impl Job {
    /// What its operations name; a client's own names are nobody else's.
    fn entities(&self) -> impl Iterator<Item = (&EntityType, &EntityRef)> {
        self.ops.iter().map(|op| (&op.op.entity_type, &op.op.id))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;

    fn job(user: &str, rank: u8, count: usize) -> Job {
        let actor = Actor { user: user.into(), client: "c".into() };
        Job {
            project: ProjectId::new("p").unwrap(),
            actor,
            role: None,
            rank,
            ops: Vec::new(),
            count,
            bytes: 10 * count,
            queued: Instant::now(),
            request: None,
            reply: oneshot::channel().0,
            room: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        }
    }

    fn users(jobs: &[Job]) -> Vec<&str> {
        jobs.iter().map(|job| job.actor.user.as_str()).collect()
    }

    #[test]
    fn a_group_is_as_many_requests_as_fit_and_at_least_one() {
        let limits = config::Store { group_ops: 5, group_bytes: 70, ..Default::default() };
        let mut queue = Queue::default();
        for (user, count) in [("a", 9), ("b", 2), ("c", 3), ("d", 1)] {
            queue.push(job(user, 2, count));
        }
        assert_eq!(queue.ops, 15);
        assert_eq!(users(&queue.next_group(&limits)), ["a"], "larger than a group, so alone");
        assert_eq!((queue.ops, users(&queue.next_group(&limits))), (6, vec!["b", "c"]));
        assert_eq!((queue.ops, users(&queue.next_group(&limits))), (1, vec!["d"]));
        assert_eq!((queue.ops, queue.next_group(&limits).len()), (0, 0));
        let narrow = config::Store { group_bytes: 15, ..limits };
        ["a", "b"].into_iter().for_each(|user| queue.push(job(user, 2, 1)));
        assert_eq!(users(&queue.next_group(&narrow)), ["a"], "two have too many bytes");
    }

    #[test]
    fn urgent_requests_go_ahead_but_never_of_the_same_installation() {
        let limits = config::Store { group_ops: 100, ..Default::default() };
        let mut queue = Queue::default();
        for (user, rank) in [("a", 2), ("b", 2), ("c", 0), ("b", 0), ("d", 1)] {
            queue.push(job(user, rank, 1));
        }
        assert_eq!(users(&queue.next_group(&limits)), ["c", "a", "b", "b", "d"]);
    }

    #[test]
    fn an_urgent_request_does_not_overtake_one_about_the_same_entity() {
        let limits = config::Store { group_ops: 100, ..Default::default() };
        let about = |user: &str, rank, id: &str| {
            let mut job = job(user, rank, 1);
            let op = json!({ "op_id": user, "kind": "update", "type": "task", "id": id });
            let op = serde_json::from_value(op).unwrap();
            job.ops.push(PendingOp::new(op, job.actor.clone(), [0; 32]));
            job
        };
        let mut queue = Queue::default();
        for (user, rank, id) in [("a", 2, "t1"), ("b", 2, "t2"), ("c", 0, "t1"), ("d", 0, "t3")] {
            queue.push(about(user, rank, id));
        }
        assert_eq!(users(&queue.next_group(&limits)), ["a", "c", "d", "b"]);
    }
}
