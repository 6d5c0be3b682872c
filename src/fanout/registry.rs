//! Who on this shard reads what: rooms, their readers, and how far each reader is.
//!
//! Used by one thread only, by [`crate::session`]; it decides which frames a reader gets and hands them to
//! a sink, knowing nothing of sockets. Invariants: a reader's cursor only rises; a change reaches a
//! connection through its project room or else through the entity's room, never through both.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::feed::{EncodedChange, Feed};
use super::reader::{Advance, Reader};
use crate::auth::Role;
use crate::id::{EntityKey, ProjectId, Room, Seq};

/// A connection's place in its shard's table.
pub type Slot = u32;

/// The rooms of one shard.
#[derive(Debug, Default)]
pub struct Registry {
    projects: HashMap<ProjectId, Project>,
}

/// One project's rooms on this shard.
#[derive(Debug)]
pub struct Project {
    name: ProjectId,
    /// Where its changes come from.
    pub feed: Arc<Feed>,
    readers: FxHashMap<Slot, Reader>,
    entities: HashMap<EntityKey, FxHashMap<Slot, Reader>>,
    ephemeral: HashMap<Arc<Room>, FxHashSet<Slot>>,
    presence: HashMap<Arc<Room>, FxHashSet<Slot>>,
}

/// Takes the frames for a connection.
pub trait Sink {
    /// Takes one frame.
    fn push(&mut self, slot: Slot, frame: &Bytes);
}

impl Registry {
    /// The project's rooms, if anyone here is in one.
    #[must_use]
    pub fn get(&self, project: &ProjectId) -> Option<&Project> {
        self.projects.get(project.as_str())
    }

    /// The project's rooms to change them, if anyone here is in one.
    pub fn get_mut(&mut self, project: &ProjectId) -> Option<&mut Project> {
        self.projects.get_mut(project.as_str())
    }

    /// The project's rooms; `watch` begins its feed if this is the first.
    pub fn enter(
        &mut self,
        project: &ProjectId,
        watch: impl FnOnce() -> Arc<Feed>,
    ) -> &mut Project {
        self.projects.entry(project.clone()).or_insert_with(|| Project {
            name: project.clone(),
            feed: watch(),
            readers: FxHashMap::default(),
            entities: HashMap::new(),
            ephemeral: HashMap::new(),
            presence: HashMap::new(),
        })
    }

    /// Forgets the project if nobody is in any of its rooms; whether it did.
    pub fn retire(&mut self, project: &ProjectId) -> bool {
        match self.projects.get(project.as_str()) {
            Some(rooms) if rooms.is_empty() => self.projects.remove(project.as_str()).is_some(),
            _ => false,
        }
    }

    /// Rooms with at least one reader here.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.projects
            .values()
            .map(|p| usize::from(!p.readers.is_empty()) + p.entities.len() + p.ephemeral.len())
            .sum()
    }
}

impl Project {
    fn is_empty(&self) -> bool {
        self.readers.is_empty()
            && self.entities.is_empty()
            && self.ephemeral.is_empty()
            && self.presence.is_empty()
    }

    /// Adds a reader that is not live yet; an earlier subscription of the same connection is replaced.
    /// Without a cursor it covers nothing until [`Self::begin_at`] says where it begins.
    pub fn read(
        &mut self,
        slot: Slot,
        entity: Option<&EntityKey>,
        role: &Arc<Role>,
        cursor: Option<Seq>,
    ) {
        let start = cursor.unwrap_or(Seq(u64::MAX));
        let cursor = cursor.unwrap_or(Seq::ZERO);
        let reader = Reader { role: role.clone(), start, cursor, live: false, brought: Vec::new() };
        match entity {
            None => self.readers.insert(slot, reader),
            Some(entity) => self.entities.entry(entity.clone()).or_default().insert(slot, reader),
        };
    }

    fn stop_reading(&mut self, slot: Slot, entity: &EntityKey) {
        if let Some(readers) = self.entities.get_mut(entity) {
            readers.remove(&slot);
            if readers.is_empty() {
                self.entities.remove(entity);
            }
        }
    }

    /// Takes a connection out of the project room. The entities it reads still go on after the last
    /// change the project room brought; returns whether they have to catch up from there.
    pub fn leave_project<'a>(
        &mut self,
        slot: Slot,
        entities: impl Iterator<Item = &'a EntityKey>,
    ) -> bool {
        let Some(left) = self.readers.remove(&slot) else { return false };
        for entity in entities {
            if let Some(reader) = self.reader(slot, Some(entity)) {
                reader.live &= left.live;
                // Up to where the project room began, the entity is read by itself.
                if reader.cursor >= left.start {
                    reader.cursor = reader.cursor.max(left.cursor);
                } else {
                    reader.brought.push((left.start, left.cursor));
                }
            }
        }
        !left.live
    }

    /// Puts a connection into an ephemeral room.
    pub fn join(&mut self, slot: Slot, room: &Arc<Room>) {
        add(&mut self.ephemeral, slot, room);
    }

    /// Sends a room's presence to a connection from now on.
    pub fn watch_presence(&mut self, slot: Slot, room: &Arc<Room>) {
        add(&mut self.presence, slot, room);
    }

    /// Takes a connection out of a room. One that stays in entities' rooms while it leaves the project's
    /// goes through [`Self::leave_project`] first.
    pub fn leave(&mut self, slot: Slot, room: &Room) {
        match room {
            Room::Project(_) => {
                self.readers.remove(&slot);
            }
            Room::User(_) => {}
            Room::Entity(_, entity) => self.stop_reading(slot, entity),
            Room::Ephemeral(..) => remove(&mut self.ephemeral, slot, room),
        }
        remove(&mut self.presence, slot, room);
    }

    /// A shared name for a room some connection is in already, to save one allocation per connection.
    #[must_use]
    pub fn shared_name(&self, room: &Room) -> Option<Arc<Room>> {
        let known =
            self.ephemeral.get_key_value(room).or_else(|| self.presence.get_key_value(room));
        known.map(|(name, _)| name.clone())
    }

    /// Begins a reader at another position than its own cursor.
    pub fn begin_at(&mut self, slot: Slot, entity: Option<&EntityKey>, at: Seq) {
        if let Some(reader) = self.reader(slot, entity) {
            (reader.start, reader.cursor) = (at, at);
        }
    }

    /// Replaces the role a connection reads one room with, and returns the one before.
    pub fn set_role(
        &mut self,
        slot: Slot,
        entity: Option<&EntityKey>,
        role: &Arc<Role>,
    ) -> Option<Arc<Role>> {
        let reader = self.reader(slot, entity)?;
        Some(std::mem::replace(&mut reader.role, role.clone()))
    }

    fn reader(&mut self, slot: Slot, entity: Option<&EntityKey>) -> Option<&mut Reader> {
        match entity {
            None => self.readers.get_mut(&slot),
            Some(entity) => self.entities.get_mut(entity)?.get_mut(&slot),
        }
    }

    /// How far a reader is; `None` if there is no such reader (any more).
    pub fn cursor(&mut self, slot: Slot, entity: Option<&EntityKey>) -> Option<Seq> {
        self.reader(slot, entity).map(|reader| reader.cursor)
    }

    /// Since when a connection reads the whole project, if it does.
    #[must_use]
    pub fn reads_all_since(&self, slot: Slot) -> Option<Seq> {
        self.readers.get(&slot).map(|reader| reader.start)
    }

    /// Sends a reader that catches up its part of `changes`, which are all there are from `after` to
    /// `upto`. With `live` it gets what comes later without asking. Returns the frames sent.
    #[expect(clippy::too_many_arguments, reason = "a reader, a part of the log, and where it goes")]
    pub fn catch_up(
        &mut self,
        slot: Slot,
        entity: Option<&EntityKey>,
        after: Seq,
        changes: &[Arc<EncodedChange>],
        upto: Seq,
        live: bool,
        sink: &mut impl Sink,
    ) -> usize {
        let name = self.name.clone();
        let Some(reader) = self.reader(slot, entity).filter(|reader| reader.cursor >= after) else {
            return 0;
        };
        let mut advance = Advance::new(&name);
        let sent = match entity {
            None => reader.take_all(slot, changes, &mut advance, sink),
            Some(entity) => {
                reader.take_entity(slot, changes.iter().filter(|c| c.entity == *entity), sink)
            }
        };
        reader.cursor = reader.cursor.max(upto);
        reader.live = live;
        if live {
            reader.brought = Vec::new();
        }
        sent
    }

    /// Sends live changes to everyone who reads them. Returns the frames sent.
    pub fn deliver(&mut self, changes: &[Arc<EncodedChange>], sink: &mut impl Sink) -> usize {
        // Entities first: what one brings lies before the point where a project room takes over.
        let mut sent = self.deliver_entities(changes, sink);
        let mut advance = Advance::new(&self.name);
        for (slot, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.live) {
            sent += reader.take_all(*slot, changes, &mut advance, sink);
        }
        sent
    }

    fn deliver_entities(&mut self, changes: &[Arc<EncodedChange>], sink: &mut impl Sink) -> usize {
        if self.entities.is_empty() {
            return 0;
        }
        let mut sent = 0;
        for change in changes {
            let Some(readers) = self.entities.get_mut(&change.entity) else { continue };
            for (slot, reader) in readers.iter_mut().filter(|(_, reader)| reader.live) {
                let all = self.readers.get(slot);
                if all.is_none_or(|all| change.seq <= all.start) {
                    sent += reader.take_entity(*slot, std::iter::once(change), sink);
                }
            }
        }
        sent
    }

    /// Sends a frame to everyone in an ephemeral room but one. Returns the frames sent.
    pub fn event(
        &self,
        room: &Room,
        frame: &Bytes,
        except: Option<Slot>,
        sink: &mut impl Sink,
    ) -> usize {
        push_all(self.ephemeral.get(room), frame, except, sink)
    }

    /// Sends a presence frame to those who asked for a room's presence. Returns the frames sent.
    pub fn presence(&self, room: &Room, frame: &Bytes, sink: &mut impl Sink) -> usize {
        push_all(self.presence.get(room), frame, None, sink)
    }

    /// The readers that have to read the store again because live changes were missed: makes them not
    /// live and names them.
    pub fn interrupt(&mut self) -> Vec<(Slot, Option<EntityKey>)> {
        let mut interrupted = Vec::new();
        for (slot, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.live) {
            reader.live = false;
            interrupted.push((*slot, None));
        }
        for (entity, readers) in &mut self.entities {
            for (slot, reader) in readers.iter_mut().filter(|(_, reader)| reader.live) {
                reader.live = false;
                interrupted.push((*slot, Some(entity.clone())));
            }
        }
        interrupted
    }

    /// Sets every reader to a position of a new epoch and names the rooms to resync.
    pub fn restart(&mut self, head: Seq) -> Vec<(Slot, Room)> {
        let mut restarted = Vec::new();
        for (slot, reader) in &mut self.readers {
            (reader.cursor, reader.live) = (head, true);
            restarted.push((*slot, Room::Project(self.name.clone())));
        }
        for (entity, readers) in &mut self.entities {
            for (slot, reader) in readers {
                (reader.cursor, reader.live) = (head, true);
                restarted.push((*slot, Room::Entity(self.name.clone(), entity.clone())));
            }
        }
        restarted
    }
}

fn add(rooms: &mut HashMap<Arc<Room>, FxHashSet<Slot>>, slot: Slot, room: &Arc<Room>) {
    rooms.entry(room.clone()).or_default().insert(slot);
}

fn remove(rooms: &mut HashMap<Arc<Room>, FxHashSet<Slot>>, slot: Slot, room: &Room) {
    if let Some(slots) = rooms.get_mut(room) {
        slots.remove(&slot);
        if slots.is_empty() {
            rooms.remove(room);
        }
    }
}

fn push_all(
    slots: Option<&FxHashSet<Slot>>,
    frame: &Bytes,
    except: Option<Slot>,
    sink: &mut impl Sink,
) -> usize {
    let mut sent = 0;
    for slot in slots.into_iter().flatten().filter(|slot| Some(**slot) != except) {
        sink.push(*slot, frame);
        sent += 1;
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::super::{Feeds, ShardHandle};
    use super::*;
    use crate::auth::Roles;

    #[derive(Default)]
    struct Sent(Vec<(Slot, Bytes)>);

    impl Sink for Sent {
        fn push(&mut self, slot: Slot, frame: &Bytes) {
            self.0.push((slot, frame.clone()));
        }
    }

    fn change(seq: u64) -> Arc<EncodedChange> {
        let entity = EntityKey { kind: "task".parse().unwrap(), id: "1".parse().unwrap() };
        Arc::new(EncodedChange::from_frame(Seq(seq), entity, seq.to_string().into()))
    }

    #[test]
    fn a_project_room_takes_over_from_an_entitys_room_without_a_hole() {
        let project: ProjectId = "p".parse().unwrap();
        let roles = Roles::compile(&crate::config::Roles::default()).unwrap();
        let role = roles.classes()[0].clone();
        let entity = &change(1).entity;
        let (shard, _queue) = ShardHandle::channel();
        let (feeds, _created) = Feeds::new(Arc::new([shard]), 1000);
        let mut registry = Registry::default();
        let rooms = registry.enter(&project, || feeds.watch(&project, 0));
        let mut sent = Sent::default();
        rooms.read(7, Some(entity), &role, Some(Seq(0)));
        rooms.catch_up(7, Some(entity), Seq(0), &[], Seq(0), true, &mut sent);
        rooms.deliver(&[change(1)], &mut sent);
        // The project's room is asked for while changes 2 and 3 are on their way to this shard.
        rooms.read(7, None, &role, None);
        rooms.deliver(&[change(2)], &mut sent);
        rooms.begin_at(7, None, Seq(3));
        rooms.catch_up(7, None, Seq(3), &[], Seq(3), true, &mut sent);
        rooms.deliver(&[change(3), change(4)], &mut sent);
        let frames: Vec<_> = sent.0.iter().map(|(_, frame)| &frame[..]).collect();
        assert_eq!(frames, [b"1", b"2", b"3", b"4"]);
    }
}
