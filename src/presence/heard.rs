//! What this instance's clients were told of each room, by version, and in which rooms they may be behind.
//! Pure.
//!
//! `redis` notes each delta that is delivered here and compares with Redis from time to time. Redis drops
//! messages; a delta that follows a lost one shows the gap, and the comparison shows the loss of a last one.

use std::collections::{HashMap, HashSet};

use super::Delta;
use crate::id::Room;

/// The rooms with a session of this instance.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    versions: HashMap<Room, u64>,
    behind: HashSet<Room>,
}

impl Heard {
    /// A delta arrived: whether it is to be delivered. One that a later one overtook is not: what it says of a
    /// user may be over. After a gap, and instead of a late one, everybody is told anew.
    pub(crate) fn delta(&mut self, delta: &Delta) -> bool {
        let known = self.versions.get(&delta.room).copied();
        let late = known.is_some_and(|known| delta.version <= known);
        if late || known.is_some_and(|known| delta.prev > known) {
            self.behind.insert(delta.room.clone());
        }
        self.listed(&delta.room, delta.version);
        !late
    }

    /// The first client in a room is told who is there. What others were told before is another matter.
    pub(crate) fn first_listed(&mut self, room: &Room, version: u64) {
        self.versions.entry(room.clone()).or_insert(version);
    }

    /// All clients in the room are told who is there as of this version.
    pub(crate) fn listed(&mut self, room: &Room, version: u64) {
        match self.versions.get_mut(room) {
            Some(known) => *known = version.max(*known),
            None => drop(self.versions.insert(room.clone(), version)),
        }
    }

    /// Redis has announced this version of the room.
    pub(crate) fn compare(&mut self, room: &Room, announced: u64) {
        if announced > self.versions.get(room).copied().unwrap_or(0) {
            self.behind.insert(room.clone());
        }
    }

    /// Whether clients may be behind anywhere.
    pub(crate) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Takes some of the rooms whose clients may be behind.
    pub(crate) fn take_behind(&mut self, most: usize) -> Vec<Room> {
        let some: Vec<Room> = self.behind.iter().take(most).cloned().collect();
        some.iter().for_each(|room| drop(self.behind.take(room)));
        some
    }

    /// They were not told after all.
    pub(crate) fn still_behind(&mut self, rooms: impl IntoIterator<Item = Room>) {
        self.behind.extend(rooms);
    }

    /// Forgets the rooms nobody of this instance is in any more.
    pub(crate) fn keep(&mut self, is_here: impl Fn(&Room) -> bool) {
        self.versions.retain(|room, _| is_here(room));
        self.behind.retain(|room| is_here(room));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::id::UserId;
    use crate::protocol::server::Member;

    fn delta(prev: u64, version: u64) -> Delta {
        Delta { prev, version, ..Delta::new("room:p:x".parse().unwrap()) }
    }

    /// One user after another comes and goes; the deltas arrive in any order, and now and then clients are told
    /// anew who is here. In the end they see who is.
    #[test]
    fn whatever_the_order_of_arrival_the_last_word_on_a_user_stands() {
        for seed in 0..500 {
            let mut random = SmallRng::seed_from_u64(seed);
            let room: Room = "room:p:x".parse().unwrap();
            let mut truth = BTreeSet::new();
            let mut deltas: Vec<Delta> = (1..12)
                .map(|n| {
                    let user = UserId::new(&format!("u{}", random.random_range(0..3))).unwrap();
                    let mut delta = delta(n - 1, n);
                    if truth.remove(&user) {
                        delta.left.push(user);
                    } else {
                        truth.insert(user.clone());
                        delta.joined.push(Member { user, state: None });
                    }
                    delta
                })
                .collect();
            // Instances publish side by side: each delta may be overtaken by some that follow it.
            let reach = random.random_range(1..6);
            for at in 0..deltas.len() {
                let other = (at + random.random_range(0..reach)).min(deltas.len() - 1);
                deltas.swap(at, other);
            }
            let (mut heard, mut seen) = (Heard::default(), BTreeSet::new());
            heard.listed(&room, 0);
            for delta in deltas {
                if heard.delta(&delta) {
                    seen.extend(delta.joined.into_iter().map(|member| member.user));
                    delta.left.iter().for_each(|user| drop(seen.take(user)));
                }
                // Redis tells how it is now, before all of its messages have arrived.
                if random.random() && !heard.take_behind(1).is_empty() {
                    seen.clone_from(&truth);
                    heard.listed(&room, 11);
                }
            }
            if !heard.take_behind(1).is_empty() {
                seen.clone_from(&truth);
            }
            assert_eq!(seen, truth, "seed {seed}");
        }
    }

    #[test]
    fn a_missed_delta_shows_in_the_next_or_in_the_comparison() {
        let room: Room = "room:p:x".parse().unwrap();
        let mut heard = Heard::default();
        assert!(heard.delta(&delta(5, 7)) && !heard.is_behind(), "the first has nothing to miss");
        assert!(heard.delta(&delta(7, 9)));
        assert!(heard.delta(&delta(0, 10)), "Redis forgot, which is no gap");
        heard.compare(&room, 10);
        assert!(!heard.is_behind());

        assert!(heard.delta(&delta(11, 12)));
        assert_eq!(heard.take_behind(9), std::slice::from_ref(&room));
        assert!(!heard.delta(&delta(7, 9)), "a late one tells of what is over");
        assert_eq!(heard.take_behind(9), std::slice::from_ref(&room));
        heard.compare(&room, 12);
        assert!(!heard.is_behind());
        heard.compare(&room, 15);
        assert_eq!(heard.take_behind(9), std::slice::from_ref(&room));
        heard.listed(&room, 15);
        heard.compare(&room, 15);
        assert!(!heard.is_behind());

        heard.still_behind([room.clone()]);
        heard.keep(|_| false);
        assert!(!heard.is_behind() && heard.versions.is_empty());
        heard.compare(&room, 1);
        assert!(heard.is_behind(), "who was told nothing is behind whatever was announced");
    }
}
