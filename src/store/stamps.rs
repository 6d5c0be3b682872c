//! Who set each field of an entity last: what conflict detection per field rests on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Actor;
use crate::id::Seq;

/// The name under which the stamp of all fields without one of their own stands; no field is called so.
const OTHERS: &str = "";

/// The latest edit of a field, or of several. A JSON list of four in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp(
    /// The change's position.
    pub Seq,
    /// Who made it, `user:client`; of an older binary the client alone. See [`Stamp::by`].
    pub Arc<str>,
    /// The operation.
    pub Arc<str>,
    /// When the user made the edit, in milliseconds since the Unix epoch, corrected.
    pub i64,
);

impl Stamp {
    /// The stamp of an edit by this actor.
    #[must_use]
    pub fn new(seq: Seq, actor: &Actor, op_id: &str, edited_at: i64) -> Self {
        let Actor { user, client } = actor;
        Self(seq, format!("{user}:{client}").into(), op_id.into(), edited_at)
    }

    /// Whether this actor made it: the same installation under another user is somebody else.
    #[must_use]
    pub fn by(&self, actor: &Actor) -> bool {
        match self.1.split_once(':') {
            Some((user, client)) => *user == actor.user && *client == actor.client,
            None => *self.1 == actor.client,
        }
    }

    /// Whether somebody else made it after what this actor saw.
    #[must_use]
    pub fn foreign(&self, base: Seq, actor: &Actor) -> bool {
        self.0 > base && !self.by(actor)
    }

    /// About how long it is in the store.
    #[must_use]
    pub fn bytes(&self) -> usize {
        const BETWEEN: usize = 40; // both numbers, quotes, commas and brackets
        self.1.len() + self.2.len() + BETWEEN
    }

    /// The installation that made it.
    #[must_use]
    pub fn client(&self) -> &str {
        // No user's name has a colon; what stands for a backend's installation may.
        self.1.split_once(':').map_or(&*self.1, |(_, client)| client)
    }
}

/// The stamps of an entity. What was set together at its creation, or by a deletion, has one in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stamps(BTreeMap<String, Stamp>);

impl Stamps {
    /// Every field has this stamp.
    #[must_use]
    pub fn whole(stamp: Stamp) -> Self {
        Self(BTreeMap::from([(OTHERS.to_owned(), stamp)]))
    }

    /// The stamp of a field that was ever set.
    #[must_use]
    pub fn of(&self, field: &str) -> Option<&Stamp> {
        self.0.get(field).or_else(|| self.0.get(OTHERS))
    }

    /// The stamp of the entity's creation, or deletion: the one without a field of its own.
    #[must_use]
    pub fn made(&self) -> Option<&Stamp> {
        self.0.get(OTHERS)
    }

    /// Stamps a field.
    pub fn set(&mut self, field: &str, stamp: Stamp) {
        self.0.insert(field.to_owned(), stamp);
    }

    /// About how long they are in the store.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(field, stamp)| field.len() + stamp.bytes()).sum()
    }

    /// The latest position of all.
    #[must_use]
    pub fn newest(&self) -> Seq {
        self.0.values().map(|stamp| stamp.0).max().unwrap_or_default()
    }

    /// The latest edit, by when it was made, that somebody else made after `base`.
    #[must_use]
    pub fn foreign(&self, base: Seq, actor: &Actor) -> Option<&Stamp> {
        let foreign = self.0.values().filter(|stamp| stamp.foreign(base, actor));
        foreign.max_by_key(|stamp| (stamp.3, stamp.0))
    }

    /// The client of the latest change.
    #[must_use]
    pub fn writer(&self) -> &str {
        self.0.values().max_by_key(|stamp| stamp.0).map_or("", Stamp::client)
    }
}
