//! This instance's sessions as they should be in Redis: the truth that survives its loss. Pure.
//!
//! Callers of presence change it under a lock; the worker in `redis` takes operations out
//! ([`Registry::take`]) and reports whether Redis has them ([`Registry::confirm`], [`Registry::fail`]).
//! A session waits in its project's queue at most once, so the queues are bounded by the sessions,
//! however long Redis is away.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tokio::time::{Duration, Instant};

use crate::id::{ProjectId, Room, UserId};
use crate::protocol::server::{Member, PresenceList, RawState};

use super::Departure;
use super::session::{Op, OpKind, Session, Want};

/// Most operations in one step.
const STEP_OPS: usize = 256;

/// What to send for one project.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) project: ProjectId,
    /// Whether the project is not yet on this holder's list.
    pub(crate) new: bool,
    pub(crate) ops: Vec<Op>,
}

#[derive(Default)]
struct Project {
    rooms: HashMap<Room, HashMap<u64, Session>>,
    queue: VecDeque<(Room, u64)>,
    due: Option<Instant>,
    indexed: bool,
}

/// The sessions of this instance.
pub(crate) struct Registry {
    grace: Duration,
    projects: HashMap<ProjectId, Project>,
    due: BTreeSet<(Instant, ProjectId)>,
    fading: VecDeque<(Instant, Room, u64)>,
    stamp: u64,
    /// Sessions still to be restored.
    restoring: usize,
}

impl Registry {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            projects: HashMap::new(),
            due: BTreeSet::new(),
            fading: VecDeque::new(),
            stamp: 0,
            restoring: 0,
        }
    }

    /// A session joins.
    pub(crate) fn join(
        &mut self,
        room: &Room,
        user: &UserId,
        conn: u64,
        state: Option<RawState>,
        now: Instant,
    ) {
        let Some(project) = room.project() else { return };
        let sessions = self.projects.entry(project.clone()).or_default().rooms.entry(room.clone());
        let session = sessions.or_default().entry(conn).or_insert_with(|| Session::new(user));
        session.come_back();
        if let Some(state) = state {
            self.stamp += 1;
            (session.state, session.stamp) = (Some(state), self.stamp);
        }
        self.enqueue(room, conn, now);
    }

    /// A session sets its state.
    pub(crate) fn update(&mut self, room: &Room, conn: u64, state: RawState, now: Instant) {
        self.stamp += 1;
        let stamp = self.stamp;
        let Some(session) = self.session(room, conn) else { return };
        if session.want == Want::Here {
            (session.state, session.stamp) = (Some(state), stamp);
            self.enqueue(room, conn, now);
        }
    }

    /// A session leaves.
    pub(crate) fn leave(&mut self, room: &Room, conn: u64, departure: Departure, now: Instant) {
        let until = now + self.grace;
        let Some(session) = self.session(room, conn) else { return };
        if session.want != Want::Here {
            return;
        }
        session.want = match departure {
            Departure::Explicit => Want::Left,
            Departure::Lost => Want::Lost(until),
        };
        self.enqueue(room, conn, now);
    }

    /// Every session is lost: the instance goes.
    pub(crate) fn lose_all(&mut self, now: Instant) {
        for (room, conn) in self.sessions(|session| session.want == Want::Here) {
            self.leave(&room, conn, Departure::Lost, now);
        }
    }

    /// Takes over the timers of a project that a dead instance leaves behind.
    pub(crate) fn adopt(&mut self, project: &ProjectId, at: Instant) {
        self.projects.entry(project.clone()).or_default();
        self.set_due(project, at);
    }

    /// Everything Redis knew is to be told again, under a new holder.
    pub(crate) fn restore(&mut self, now: Instant) {
        for project in self.projects.values_mut() {
            project.indexed = false;
        }
        let mut known = self.sessions(|session| session.known.is_some());
        known.sort_by_key(|(room, conn)| self.session(room, *conn).map(|session| session.stamp));
        for (room, conn) in known {
            if let Some(session) = self.session(&room, conn)
                && !std::mem::replace(&mut session.restore, true)
            {
                self.restoring += 1;
            }
            self.enqueue(&room, conn, now);
        }
    }

    /// Whether sessions still wait to be restored.
    pub(crate) fn is_restoring(&self) -> bool {
        self.restoring > 0
    }

    /// Whether operations wait to be sent.
    pub(crate) fn is_behind(&self) -> bool {
        self.projects.values().any(|project| !project.queue.is_empty())
    }

    /// All projects with sessions or timers.
    pub(crate) fn projects(&self) -> Vec<ProjectId> {
        self.projects.keys().cloned().collect()
    }

    /// Whether this instance has a session in the room, or lately had.
    pub(crate) fn has_room(&self, room: &Room) -> bool {
        let project = room.project().and_then(|id| self.projects.get(id));
        project.is_some_and(|project| project.rooms.contains_key(room))
    }

    /// The rooms this instance has sessions in, by project.
    pub(crate) fn rooms(&self) -> Vec<(ProjectId, Vec<Room>)> {
        let projects = self.projects.iter().filter(|(_, project)| !project.rooms.is_empty());
        projects
            .map(|(id, project)| (id.clone(), project.rooms.keys().cloned().collect()))
            .collect()
    }

    /// When [`Self::take`] has something next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the steps that are due, at most `most`, one per project.
    pub(crate) fn take(&mut self, now: Instant, most: usize) -> Vec<Step> {
        self.fade(now);
        let mut steps = Vec::new();
        while steps.len() < most
            && let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, id)) = self.due.pop_first() else { break };
            let Some(project) = self.projects.get_mut(&id) else { continue };
            project.due = None;
            let ops = project.operations(now);
            steps.push(Step { project: id, new: !project.indexed, ops });
        }
        steps
    }

    /// Redis has done the step; the project is due again at `next`.
    pub(crate) fn confirm(&mut self, step: &Step, next: Option<Instant>, now: Instant) {
        for op in &step.ops {
            self.confirm_op(op, now);
        }
        let Some(project) = self.projects.get_mut(&step.project) else { return };
        project.indexed = true;
        let again = if project.queue.is_empty() { next } else { Some(now) };
        if let Some(at) = again {
            self.set_due(&step.project, at);
        }
    }

    fn confirm_op(&mut self, op: &Op, now: Instant) {
        let until = now + self.grace;
        let Some(session) = self.session(&op.room, op.conn) else { return };
        let settled = !session.queued;
        match op.kind {
            OpKind::Put => {
                session.known = Some((op.stamp, op.state.clone()));
                if settled {
                    session.again = None;
                }
            }
            OpKind::Restore => {
                session.known = Some((op.stamp, op.state.clone()));
                let restored = std::mem::take(&mut session.restore);
                self.restoring -= usize::from(restored);
            }
            OpKind::Left => {
                session.known = None;
                if settled && session.want != Want::Here && session.again.is_none() {
                    self.remove(&op.room, op.conn);
                }
            }
            // It stays known until its grace is over, counted anew.
            OpKind::Lost if settled && matches!(session.want, Want::Lost(_)) => {
                session.want = Want::Lost(until);
                self.fading.push_back((until, op.room.clone(), op.conn));
            }
            OpKind::Lost => {}
        }
    }

    /// The step's fate is unknown: it is sent again.
    pub(crate) fn fail(&mut self, step: &Step, now: Instant) {
        // In front of what came later, in the same order.
        for op in step.ops.iter().rev() {
            let Some(session) = self.session(&op.room, op.conn) else { continue };
            if !std::mem::replace(&mut session.queued, true)
                && let Some(project) = self.projects.get_mut(&step.project)
            {
                project.queue.push_front((op.room.clone(), op.conn));
            }
        }
        self.set_due(&step.project, now);
    }

    /// Forgets the projects that have nothing left, and names them.
    pub(crate) fn retire(&mut self) -> Vec<ProjectId> {
        let idle = |project: &Project| project.rooms.is_empty() && project.due.is_none();
        let gone = self.projects.iter().filter(|(_, project)| idle(project));
        let gone: Vec<ProjectId> = gone.map(|(id, _)| id.clone()).collect();
        for id in &gone {
            self.projects.remove(id);
        }
        gone
    }

    /// The users this instance has in a room.
    pub(crate) fn list(&self, room: &Room, limit: usize, now: Instant) -> PresenceList {
        let project = room.project().and_then(|id| self.projects.get(id));
        let sessions = project.and_then(|project| project.rooms.get(room)).into_iter().flatten();
        let mut users: BTreeMap<&UserId, (u64, Option<&RawState>)> = BTreeMap::new();
        for (_, session) in sessions {
            let gone = match session.want {
                Want::Here => false,
                Want::Left => true,
                Want::Lost(until) => until <= now,
            };
            if !gone {
                let shown = users.entry(&session.user).or_default();
                if session.state.is_some() && session.stamp >= shown.0 {
                    *shown = (session.stamp, session.state.as_ref());
                }
            }
        }
        let count = users.len() as u64;
        let members = users.into_iter().take(limit);
        let members =
            members.map(|(user, (_, state))| Member { user: user.clone(), state: state.cloned() });
        PresenceList { users: count, members: members.collect() }
    }

    fn session(&mut self, room: &Room, conn: u64) -> Option<&mut Session> {
        self.projects.get_mut(room.project()?)?.rooms.get_mut(room)?.get_mut(&conn)
    }

    fn sessions(&self, wanted: impl Fn(&Session) -> bool) -> Vec<(Room, u64)> {
        let rooms = self.projects.values().flat_map(|project| &project.rooms);
        let sessions = rooms.flat_map(|(room, sessions)| sessions.iter().map(move |s| (room, s)));
        let wanted = sessions.filter(|(_, (_, session))| wanted(session));
        wanted.map(|(room, (conn, _))| (room.clone(), *conn)).collect()
    }

    fn enqueue(&mut self, room: &Room, conn: u64, now: Instant) {
        let Some(id) = room.project() else { return };
        let Some(project) = self.projects.get_mut(id) else { return };
        let session = project.rooms.get_mut(room).and_then(|sessions| sessions.get_mut(&conn));
        let Some(session) = session else { return };
        if !std::mem::replace(&mut session.queued, true) {
            project.queue.push_back((room.clone(), conn));
            self.set_due(id, now);
        }
    }

    /// Makes the project due at `at`, unless it is due earlier.
    fn set_due(&mut self, id: &ProjectId, at: Instant) {
        let Some(project) = self.projects.get_mut(id) else { return };
        if project.due.is_some_and(|due| due <= at) {
            return;
        }
        if let Some(due) = project.due.replace(at) {
            self.due.remove(&(due, id.clone()));
        }
        self.due.insert((at, id.clone()));
    }

    fn remove(&mut self, room: &Room, conn: u64) {
        let Some(project) = room.project().and_then(|id| self.projects.get_mut(id)) else { return };
        let Some(sessions) = project.rooms.get_mut(room) else { return };
        if let Some(session) = sessions.remove(&conn) {
            self.restoring -= usize::from(session.restore);
        }
        if sessions.is_empty() {
            project.rooms.remove(room);
        }
    }

    /// Forgets lost sessions whose grace is over.
    fn fade(&mut self, now: Instant) {
        while self.fading.front().is_some_and(|(until, ..)| *until <= now) {
            let Some((until, room, conn)) = self.fading.pop_front() else { break };
            let Some(session) = self.session(&room, conn) else { continue };
            if session.want == Want::Lost(until) && !session.queued {
                self.remove(&room, conn);
            }
        }
    }
}

impl Project {
    /// Takes the next operations out of the queue.
    fn operations(&mut self, now: Instant) -> Vec<Op> {
        let mut sessions = Vec::new();
        for (room, conn) in self.queue.drain(..self.queue.len().min(STEP_OPS)) {
            let session = self.rooms.get_mut(&room).and_then(|sessions| sessions.get_mut(&conn));
            if let Some(session) = session {
                session.queued = false;
                sessions.push((session.stamp, room, conn));
            }
        }
        // A session that waited and set its state again comes after the others of its user.
        sessions.sort_by_key(|(stamp, ..)| *stamp);
        let mut ops = Vec::new();
        for (_, room, conn) in sessions {
            if let Some(session) = self.rooms.get(&room).and_then(|sessions| sessions.get(&conn)) {
                session.operations(&room, conn, now, &mut ops);
            }
        }
        ops
    }
}
