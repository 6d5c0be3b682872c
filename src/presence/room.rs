//! One room's users and sessions: the pure core. Time is an argument.
//!
//! `local` drives it; `step.lua` does the same in Redis. A change remembers what had been announced of
//! the user before it; [`RoomCore::poll`] compares that with what is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use tokio::time::Instant;

use super::{DELTA_USERS, Delta, Departure, PresencePage};
use crate::config;
use crate::id::{Room, UserId};
use crate::protocol::server::{Member, RawState};

/// What others see of a user: nothing, or that they are here, with a state or without.
type Seen = Option<Option<RawState>>;

/// A room's presence.
pub(crate) struct RoomCore {
    users: BTreeMap<UserId, User>,
    /// Users who may have changed since the last delta, as they were announced.
    announced: HashMap<UserId, Seen>,
    /// Users without a session, and when they are given up.
    graces: BTreeSet<(Instant, UserId)>,
    /// When the next delta may go out.
    quiet_until: Instant,
}

#[derive(Default)]
struct User {
    /// Oldest first; setting a state moves a session to the end.
    sessions: Vec<(u64, Option<RawState>)>,
    /// The state of a lost session, shown until another one sets its own.
    kept: Option<RawState>,
    /// Set while there is no session.
    grace: Option<Instant>,
}

impl User {
    fn state(&self) -> Option<RawState> {
        let newest = self.sessions.iter().rev().find_map(|(_, state)| state.clone());
        newest.or_else(|| self.kept.clone())
    }

    fn set(&mut self, conn: u64, state: RawState) {
        self.sessions.retain(|(c, _)| *c != conn);
        self.sessions.push((conn, Some(state)));
        self.kept = None;
    }
}

impl RoomCore {
    /// An empty room.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            users: BTreeMap::new(),
            announced: HashMap::new(),
            graces: BTreeSet::new(),
            quiet_until: now,
        }
    }

    fn seen(&self, user: &UserId) -> Seen {
        self.users.get(user).map(User::state)
    }

    /// Notes what was announced of a user whose appearance was `before`, if it differs now.
    fn changed(&mut self, user: &UserId, before: Seen) {
        if self.seen(user) != before {
            self.announced.entry(user.clone()).or_insert(before);
        }
    }

    /// A session joins.
    pub(crate) fn join(&mut self, user: &UserId, conn: u64, state: Option<RawState>) {
        let before = self.seen(user);
        let entry = self.users.entry(user.clone()).or_default();
        if let Some(until) = entry.grace.take() {
            self.graces.remove(&(until, user.clone()));
        }
        match state {
            Some(state) => entry.set(conn, state),
            None if entry.sessions.iter().any(|(c, _)| *c == conn) => {}
            None => entry.sessions.push((conn, None)),
        }
        self.changed(user, before);
    }

    /// A session sets its state.
    pub(crate) fn update(&mut self, user: &UserId, conn: u64, state: RawState) {
        let before = self.seen(user);
        let Some(entry) = self.users.get_mut(user) else { return };
        if entry.sessions.iter().any(|(c, _)| *c == conn) {
            entry.set(conn, state);
            self.changed(user, before);
        }
    }

    /// A session leaves; if it was lost and the last one, its user stays until `until`.
    pub(crate) fn leave(&mut self, user: &UserId, conn: u64, departure: Departure, until: Instant) {
        let before = self.seen(user);
        let Some(entry) = self.users.get_mut(user) else { return };
        let shown = entry.state();
        let Some(at) = entry.sessions.iter().position(|(c, _)| *c == conn) else { return };
        entry.sessions.remove(at);
        match departure {
            Departure::Explicit if entry.sessions.is_empty() => {
                self.users.remove(user);
            }
            Departure::Explicit => {}
            Departure::Lost => {
                if entry.state().is_none() {
                    entry.kept = shown;
                }
                if entry.sessions.is_empty() {
                    entry.grace = Some(until);
                    self.graces.insert((until, user.clone()));
                }
            }
        }
        self.changed(user, before);
    }

    /// Gives up users whose grace is over and returns what is to be announced now.
    pub(crate) fn poll(
        &mut self,
        room: &Room,
        now: Instant,
        rules: &config::Presence,
    ) -> Option<Delta> {
        while self.graces.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, user)) = self.graces.pop_first() else { break };
            let before = self.seen(&user);
            self.users.remove(&user);
            self.changed(&user, before);
        }
        if self.announced.is_empty() || now < self.quiet_until {
            return None;
        }
        let mut delta = Delta::new(room.clone());
        let some: Vec<UserId> = self.announced.keys().take(DELTA_USERS).cloned().collect();
        for user in some {
            let before = self.announced.remove(&user).flatten();
            // Also what is again as it was: somebody may have been given the list meanwhile.
            match (before, self.seen(&user)) {
                (None, Some(state)) => delta.joined.push(Member { user, state }),
                (Some(_), Some(state)) => delta.updated.push(Member { user, state }),
                (_, None) => delta.left.push(user),
            }
        }
        self.quiet_until = now + rules.batch;
        delta.users = self.users.len() as u64;
        Some(delta.sampled(rules.members))
    }

    /// When [`Self::poll`] has something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let grace = self.graces.first().map(|(until, _)| *until);
        let delta =
            (!self.announced.is_empty() || self.users.is_empty()).then_some(self.quiet_until);
        grace.into_iter().chain(delta).min()
    }

    /// Whether nothing is lost by forgetting the room.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.users.is_empty() && self.announced.is_empty() && self.quiet_until <= now
    }

    /// The members after `after`, in the order of their names.
    pub(crate) fn page(&self, after: Option<&UserId>, limit: usize) -> PresencePage {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.users.range::<UserId, _>((from, Bound::Unbounded));
        let members: Vec<Member> = rest
            .by_ref()
            .take(limit)
            .map(|(user, entry)| Member { user: user.clone(), state: entry.state() })
            .collect();
        let next = rest.next().and(members.last()).map(|member| member.user.clone());
        PresencePage { users: self.users.len() as u64, members, next }
    }
}
