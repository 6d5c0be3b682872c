//! The connections of each user on one shard.

use std::collections::HashMap;

use super::registry::Slot;
use crate::id::UserId;

/// The connections of each user on one shard.
#[derive(Debug, Default)]
pub struct Users {
    slots: HashMap<UserId, Vec<Slot>>,
}

impl Users {
    /// Adds a user's connection.
    pub fn add(&mut self, user: &UserId, slot: Slot) {
        self.slots.entry(user.clone()).or_insert_with(|| Vec::with_capacity(1)).push(slot);
    }

    /// Removes a user's connection.
    pub fn remove(&mut self, user: &UserId, slot: Slot) {
        if let Some(slots) = self.slots.get_mut(user.as_str()) {
            slots.retain(|known| *known != slot);
            if slots.is_empty() {
                self.slots.remove(user.as_str());
            }
        }
    }

    /// A user's connections.
    pub fn of(&self, user: &UserId) -> impl Iterator<Item = Slot> + '_ {
        self.slots.get(user.as_str()).into_iter().flatten().copied()
    }
}
