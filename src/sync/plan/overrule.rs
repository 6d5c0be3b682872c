//! A backend writes over what waits for its user's decision.
//!
//! The operation stays parked, and its user decides on what is there then. Beside its entry in the conflict log
//! stands one more that says what the backend set when it first wrote over each field: one entry, however
//! often backends write while the user is away.

use std::collections::HashSet;

use super::{Planner, Write};
use crate::id::EntityKey;
use crate::protocol::conflict::{Conflict, ConflictField, ConflictKind, ConflictState, Strategy};
use crate::protocol::op::{ChangeKind, Outcome};
use crate::store::{Parked, PendingOp};

impl Planner<'_> {
    /// Notes what of this write overrules whom.
    pub(super) fn overrule(&mut self, pending: &PendingOp, key: &EntityKey, write: &Write) {
        if !pending.upsert {
            return;
        }
        let open = |parked: &&Parked| {
            parked.conflict.state == ConflictState::Open && parked.conflict.entity == *key
        };
        let parked = self.states().flat_map(|state| state.conflicts.keys());
        let known: HashSet<_> = self.snapshot.conflicts.keys().chain(parked).collect();
        let waiting = known.into_iter().filter_map(|id| self.conflict(*id)).filter(open);
        let overruled: Vec<_> =
            waiting.filter_map(|parked| self.overruled(&parked.conflict, write)).collect();
        for entry in overruled {
            self.state().conflicts.insert(entry.conflict.id, entry);
        }
    }

    /// The entry beside a parked operation's, if this write is news for it.
    fn overruled(&self, waiting: &Conflict, write: &Write) -> Option<Parked> {
        let id = waiting.id.overruled();
        let before = self.conflict(id).map(|parked| &parked.conflict);
        let deleted = write.kind == ChangeKind::Delete;
        let known = |name: &str| before.is_some_and(|b| b.fields.iter().any(|f| f.name == name));
        let news = waiting.fields.iter().filter(|field| {
            (deleted || write.patch.contains_key(&field.name)) && !known(&field.name)
        });
        let news = news.map(|field| {
            let set = write.patch.get(&field.name).cloned();
            ConflictField { server: set.clone(), result: set, ..field.clone() }
        });
        let news: Vec<_> = news.collect();
        if news.is_empty() && (before.is_some() || !deleted) {
            return None;
        }
        let mut entry = before.cloned().unwrap_or_else(|| Conflict {
            id,
            kind: ConflictKind::Overruled,
            state: ConflictState::Closed,
            outcome: Outcome::Superseded,
            strategy: Strategy::ServerWins,
            fields: Vec::new(),
            created_at: self.now_ms,
            ..waiting.clone()
        });
        entry.fields.extend(news);
        Some(Parked { conflict: entry, op: None })
    }
}
