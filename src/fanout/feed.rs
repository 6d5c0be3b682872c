//! A project's changes in order, on this instance.
//!
//! Changes arrive from the local writer, from the bus and from the store, in any order and more than
//! once. A [`Feed`] lets each pass once, in `seq` order: the next one goes to the shards that have
//! readers, an earlier one is a duplicate, a later one is held until the gap before it is filled. The bus
//! is a shortcut; the store is the truth, and [`crate::sync::follow`] fills gaps from it.
//!
//! A feed keeps the recent changes, bounded in bytes. They serve clients that resume, and shards whose
//! queue was full: what could not be sent is sent from here later, so nothing waits twice in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::view::Views;
use super::{ConnId, ShardHandle, ToShard};
use crate::id::{EntityKey, Epoch, ProjectId, Room, Seq};
use crate::protocol::server::{Change, ServerFrame};
use crate::store::LogEntry;

/// One change, encoded once for all who see the same of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChange {
    /// Its position.
    pub seq: Seq,
    /// The entity changed: who may read it depends on its type, entity rooms on all of it.
    pub entity: EntityKey,
    /// The finished WebSocket message, for those who see all of it: see [`EncodedChange::seen_by`].
    pub frame: Bytes,
    pub(super) views: Views,
}

impl EncodedChange {
    /// Encodes a log entry.
    #[must_use]
    pub fn new(project: &ProjectId, entry: &LogEntry) -> Self {
        let frame = ServerFrame::Change(Change {
            project,
            seq: entry.seq,
            entity: &entry.entity,
            kind: entry.kind,
            version: entry.seq,
            prev: entry.prev,
            fields: entry.fields.as_deref(),
            actor: &entry.actor,
            at: entry.at,
            op_id: &entry.op_id,
        })
        .encode();
        Self::from_frame(entry.seq, entry.entity.clone(), frame)
    }

    /// A change that was encoded already.
    #[must_use]
    pub fn from_frame(seq: Seq, entity: EntityKey, frame: Bytes) -> Self {
        Self { seq, entity, frame, views: Views::default() }
    }
}

/// How far a feed is from serving readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Just asked for.
    New,
    /// The bus delivers the project's messages (or is down and will be healed).
    Attached,
    /// The position in the log is known: changes flow.
    Open,
}

/// What a feed did with changes it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// Everything known so far was passed on.
    InOrder,
    /// Some changes wait for earlier ones: the gap has to be filled.
    Gap,
    /// They belong to another epoch: the store has to be asked which is right.
    OtherEpoch,
}

/// One project's changes in order, on this instance.
#[derive(Debug)]
pub struct Feed {
    project: ProjectId,
    stage: watch::Sender<Stage>,
    shards: Arc<[ShardHandle]>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Known once the feed is open.
    log: Option<Position>,
    /// Changes that wait for earlier ones, or for the feed to open.
    held: BTreeMap<Seq, Arc<EncodedChange>>,
    held_bytes: usize,
    /// The latest changes passed on, dense, ending just before `next`.
    recent: VecDeque<Arc<EncodedChange>>,
    recent_bytes: usize,
    limit_bytes: usize,
    /// By shard, those with readers.
    watchers: Box<[Option<Watcher>]>,
    idle_since: Option<Instant>,
}

/// A shard with readers.
#[derive(Debug, Clone, Copy)]
struct Watcher {
    /// The next position it has to be sent.
    next: Seq,
    /// Whether it has to be told first that the log was replaced.
    restarted: bool,
}

impl Watcher {
    /// One that was told everything before `next`.
    fn at(next: Seq) -> Self {
        Self { next, restarted: false }
    }
}

#[derive(Debug, Clone, Copy)]
struct Position {
    epoch: Epoch,
    next: Seq,
}

impl Position {
    fn head(self) -> Seq {
        Seq(self.next.0 - 1)
    }
}

impl Feed {
    pub(super) fn new(project: ProjectId, shards: &Arc<[ShardHandle]>, limit_bytes: usize) -> Self {
        Self {
            project,
            stage: watch::Sender::new(Stage::New),
            shards: shards.clone(),
            state: Mutex::new(State {
                log: None,
                held: BTreeMap::new(),
                held_bytes: 0,
                recent: VecDeque::new(),
                recent_bytes: 0,
                limit_bytes,
                watchers: vec![None; shards.len()].into(),
                idle_since: None,
            }),
        }
    }

    /// Begins sending changes to a shard.
    pub(super) fn watch(&self, shard: usize) {
        self.lock().watch(shard);
    }

    /// Ends sending changes to a shard.
    pub(super) fn unwatch(&self, shard: usize) {
        self.lock().unwatch(shard);
    }

    /// Whether it had no reader since `before`.
    pub(super) fn idle_since(&self, before: Instant) -> bool {
        self.lock().idle_since.is_some_and(|since| since <= before)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &ProjectId {
        &self.project
    }

    /// How far the feed is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Waits until the feed is at least this far.
    pub async fn reach(&self, stage: Stage) {
        let mut stages = self.stage.subscribe();
        // The sender lives as long as `self`, so waiting can only end well.
        let _always = stages.wait_for(|now| *now >= stage).await;
    }

    /// The bus delivers this project now, or will be healed later.
    pub fn attached(&self) {
        self.stage.send_if_modified(|stage| {
            let first = *stage == Stage::New;
            if first {
                *stage = Stage::Attached;
            }
            first
        });
    }

    /// The log stands at `head`: changes after it flow.
    pub fn open(&self, epoch: Epoch, head: Seq) {
        let mut state = self.lock();
        if state.log.is_none() {
            state.restart(epoch, head);
            self.emit(&mut state);
        }
        drop(state);
        self.stage.send_replace(Stage::Open);
    }

    /// The log was replaced, or cut beyond where this feed is: every cursor here is void.
    pub fn restart(&self, epoch: Epoch, head: Seq) {
        let mut state = self.lock();
        state.restart(epoch, head);
        state.watchers.iter_mut().flatten().for_each(|watcher| watcher.restarted = true);
        self.emit(&mut state);
    }

    /// The epoch and the last position passed on.
    #[must_use]
    pub fn head(&self) -> Option<(Epoch, Seq)> {
        self.lock().log.map(|log| (log.epoch, log.head()))
    }

    /// Takes changes from the writer, the bus or the store.
    pub fn offer(
        &self,
        epoch: Epoch,
        changes: impl IntoIterator<Item = Arc<EncodedChange>>,
    ) -> Offered {
        let mut state = self.lock();
        if state.log.is_some_and(|log| log.epoch != epoch) {
            return Offered::OtherEpoch;
        }
        for change in changes {
            state.take(change);
        }
        self.emit(&mut state);
        if state.log.is_some() && !state.held.is_empty() { Offered::Gap } else { Offered::InOrder }
    }

    /// Sends again what full shard queues could not take.
    pub fn flush(&self) {
        self.emit(&mut self.lock());
    }

    /// The changes after `after`, if they are all still here, oldest first.
    #[must_use]
    pub fn recent(&self, after: Seq) -> Option<Vec<Arc<EncodedChange>>> {
        let state = self.lock();
        let log = state.log?;
        let oldest = state.recent.front().map_or(log.next, |change| change.seq);
        let skip = after.next().0.checked_sub(oldest.0)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(state.recent.len());
        Some(state.recent.range(skip..).cloned().collect())
    }

    /// Sends a finished frame to the shards that have readers of this project; returns how many queues
    /// were full.
    pub fn event(&self, room: &Arc<Room>, frame: &Bytes, except: Option<ConnId>) -> usize {
        self.to_watchers(|| ToShard::Event { room: room.clone(), frame: frame.clone(), except })
    }

    /// Sends a finished presence frame likewise.
    pub fn presence(&self, room: &Arc<Room>, frame: &Bytes) -> usize {
        self.to_watchers(|| ToShard::Presence(room.clone(), frame.clone()))
    }

    fn to_watchers(&self, message: impl Fn() -> ToShard) -> usize {
        let state = self.lock();
        let watching = self.shards.iter().zip(&state.watchers).filter(|(_, at)| at.is_some());
        watching.filter(|(shard, _)| !shard.send(message())).count()
    }

    /// Whether some changes wait for earlier ones.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        let state = self.lock();
        state.log.is_some() && !state.held.is_empty()
    }

    fn emit(&self, state: &mut State) {
        let Some(log) = state.log else { return };
        let mut shared: Option<(Seq, Arc<[Arc<EncodedChange>]>)> = None;
        for (index, shard) in self.shards.iter().enumerate() {
            let Some(Watcher { next: at, restarted }) = state.watchers[index] else { continue };
            if at >= log.next && !restarted {
                continue;
            }
            let oldest = state.recent.front().map_or(log.next, |change| change.seq);
            let sent = if restarted {
                // Its readers' cursors are void, so they need none of the changes up to here either.
                shard.send(ToShard::NewEpoch(self.project.clone(), log.epoch, log.head()))
            } else if at < oldest {
                shard.send(ToShard::Overflow(self.project.clone()))
            } else {
                let batch = match &shared {
                    Some((from, batch)) if *from == at => batch.clone(),
                    _ => {
                        let skip = usize::try_from(at.0 - oldest.0).unwrap_or(usize::MAX);
                        let batch: Arc<[_]> = state.recent.range(skip..).cloned().collect();
                        shared = Some((at, batch.clone()));
                        batch
                    }
                };
                shard.send(ToShard::Changes(self.project.clone(), batch))
            };
            if sent {
                state.watchers[index] = Some(Watcher::at(log.next));
            }
        }
        state.trim();
    }
}

impl State {
    fn watch(&mut self, shard: usize) {
        // A reader that joins now reads what came before through `recent` or the store.
        let next = self.log.map_or(Seq::ZERO, |log| log.next);
        self.watchers[shard] = Some(Watcher::at(next));
        self.idle_since = None;
    }

    fn unwatch(&mut self, shard: usize) {
        self.watchers[shard] = None;
        if self.watchers.iter().all(Option::is_none) {
            self.idle_since = Some(Instant::now());
        }
    }

    fn restart(&mut self, epoch: Epoch, head: Seq) {
        self.log = Some(Position { epoch, next: head.next() });
        self.recent.clear();
        self.recent_bytes = 0;
        self.held.retain(|seq, _| *seq > head);
        self.held_bytes = self.held.values().map(|change| change.frame.len()).sum();
        for watcher in self.watchers.iter_mut().flatten() {
            watcher.next = head.next();
        }
        self.release();
    }

    fn take(&mut self, change: Arc<EncodedChange>) {
        match &mut self.log {
            Some(log) if change.seq < log.next => {}
            Some(log) if change.seq == log.next => {
                log.next = log.next.next();
                self.recent_bytes += change.frame.len();
                self.recent.push_back(change);
                self.release();
            }
            _ => {
                self.held_bytes += change.frame.len();
                if let Some(twice) = self.held.insert(change.seq, change) {
                    self.held_bytes -= twice.frame.len();
                }
                // Held changes are a shortcut too: the store has them all.
                while self.held_bytes > self.limit_bytes {
                    let Some((_, last)) = self.held.pop_last() else { break };
                    self.held_bytes -= last.frame.len();
                }
            }
        }
    }

    /// Passes on the held changes whose turn has come.
    fn release(&mut self) {
        let Some(log) = &mut self.log else { return };
        while let Some(first) = self.held.first_entry() {
            if *first.key() > log.next {
                break;
            }
            let change = first.remove();
            self.held_bytes -= change.frame.len();
            if change.seq == log.next {
                log.next = log.next.next();
                self.recent_bytes += change.frame.len();
                self.recent.push_back(change);
            }
        }
    }

    fn trim(&mut self) {
        while self.recent_bytes > self.limit_bytes {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.frame.len();
        }
    }
}

#[cfg(test)]
mod tests;
