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
    /// A delta is delivered; whether one before it was missed.
    pub(crate) fn delta(&mut self, delta: &Delta) -> bool {
        let missed = match self.versions.get(&delta.room) {
            Some(known) => delta.prev > *known,
            None => false,
        };
        self.listed(&delta.room, delta.version);
        missed && self.behind.insert(delta.room.clone())
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
    use super::*;

    fn delta(prev: u64, version: u64) -> Delta {
        Delta { prev, version, ..Delta::new("room:p:x".parse().unwrap()) }
    }

    #[test]
    fn a_missed_delta_shows_in_the_next_or_in_the_comparison() {
        let room: Room = "room:p:x".parse().unwrap();
        let mut heard = Heard::default();
        assert!(!heard.delta(&delta(5, 7)), "the first heard has nothing to miss");
        assert!(!heard.delta(&delta(7, 9)));
        assert!(!heard.delta(&delta(0, 10)), "Redis forgot, which is no gap");
        heard.compare(&room, 10);
        assert!(!heard.is_behind());

        assert!(heard.delta(&delta(11, 12)));
        assert_eq!(heard.take_behind(9), std::slice::from_ref(&room));
        assert!(!heard.delta(&delta(7, 9)), "a late one is no gap");
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
