//! Reading on from a cursor until the live stream takes over without a hole: first pages of the store,
//! then the feed's recent changes. A reader goes live in the very turn in which it has read those to their
//! end.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::delivery::Way;
use super::shard::Shard;
use super::table::ConnRef;
use crate::fanout::registry::Slot;
use crate::fanout::{EncodedChange, Feed};
use crate::id::{EntityKey, ProjectId, Room, Seq};
use crate::protocol::server::ResyncReason;
use crate::sync::pages::Page;
use crate::telemetry::{CatchUpSource, Delivery};

/// One reader on its way to the live stream.
struct CatchUp {
    conn: ConnRef,
    feed: Arc<Feed>,
    entity: Option<EntityKey>,
    /// A page that was read already.
    page: Option<Arc<Page>>,
    /// Where to stop, if another room brings what comes after.
    until: Option<Seq>,
}

impl CatchUp {
    fn room(&self) -> Room {
        let project = self.feed.project().clone();
        match &self.entity {
            None => Room::Project(project),
            Some(entity) => Room::Entity(project, entity.clone()),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Progress {
    Live,
    More,
    NeedsStore,
}

impl Shard {
    /// Reads on from a reader's cursor until it is live: at once if the recent changes suffice,
    /// otherwise in a task of its own.
    pub(super) fn catch_up_later(
        self: &Rc<Self>,
        conn: ConnRef,
        feed: &Arc<Feed>,
        entity: Option<EntityKey>,
        page: Option<Arc<Page>>,
        until: Option<Seq>,
    ) {
        let mut reader = CatchUp { conn, feed: feed.clone(), entity, page, until };
        if self.read_recent(&mut reader) == Progress::Live {
            return;
        }
        let shard = self.clone();
        spawn_local(async move { shard.catch_up(reader).await });
    }

    async fn catch_up(self: Rc<Self>, mut reader: CatchUp) {
        loop {
            // A reader takes as much as it reads, no more.
            self.drained(reader.conn).await;
            match self.read_recent(&mut reader) {
                Progress::Live => return,
                Progress::More => continue,
                Progress::NeedsStore => {}
            }
            let Some(cursor) = self.cursor(&reader) else { return };
            let page = match reader.page.take() {
                Some(page) => Ok(page),
                None => self.hub.pages.read(reader.feed.project(), cursor).await,
            };
            match page {
                Ok(page) => self.send_page(&reader, cursor, &page),
                Err(error) => {
                    let project = reader.feed.project();
                    tracing::warn!(%project, %error, "a catch-up waits for the store");
                    self.hub.metrics.store_errors.inc();
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    fn send_page(&self, reader: &CatchUp, cursor: Seq, page: &Page) {
        if !self.is_open(reader.conn) {
            return; // its slot may be another's by now
        }
        self.hub.metrics.catch_ups.of(CatchUpSource::Store).inc();
        let feed_epoch = reader.feed.head().map(|(epoch, _)| epoch);
        if page.floor > cursor || feed_epoch.is_some_and(|epoch| epoch != page.epoch) {
            let reason = if page.floor > cursor {
                ResyncReason::CursorTooOld
            } else {
                ResyncReason::EpochChanged
            };
            self.resync(reader.conn.slot, &reader.room(), reason);
            return self.pass(reader, cursor, &[], page.head, false);
        }
        let mut changes = &page.changes[..];
        let mut upto = changes.last().map_or(page.head, |last| last.seq);
        if let Some(until) = reader.until.filter(|until| *until < upto) {
            changes = &changes[..changes.partition_point(|change| change.seq <= until)];
            upto = until;
        }
        self.pass(reader, cursor, changes, upto, false);
    }

    fn pass(
        &self,
        reader: &CatchUp,
        after: Seq,
        changes: &[Arc<EncodedChange>],
        upto: Seq,
        live: bool,
    ) {
        self.deliver(Delivery::Change, Way::Joined, |registry, sink| {
            registry.get_mut(reader.feed.project()).map_or(0, |rooms| {
                let entity = reader.entity.as_ref();
                rooms.catch_up(reader.conn.slot, entity, after, changes, upto, live, sink)
            })
        });
    }

    fn cursor(&self, reader: &CatchUp) -> Option<Seq> {
        if !self.is_open(reader.conn) {
            return None;
        }
        let mut state = self.state.borrow_mut();
        let rooms = state.registry.get_mut(reader.feed.project())?;
        rooms.cursor(reader.conn.slot, reader.entity.as_ref())
    }

    /// Sends what the feed still has in memory after the cursor. A reader that left counts as live:
    /// there is nothing more to do for it.
    fn read_recent(&self, reader: &mut CatchUp) -> Progress {
        let Some(cursor) = self.cursor(reader) else { return Progress::Live };
        if reader.until.is_some_and(|until| cursor >= until) && self.hands_over(reader) {
            self.pass(reader, cursor, &[], cursor, true);
            return Progress::Live;
        }
        let Some(mut changes) = reader.feed.recent(cursor) else { return Progress::NeedsStore };
        let mut bytes = 0;
        let fits = changes.iter().take_while(|change| {
            bytes += change.frame.len();
            bytes <= self.hub.config.limits.catch_up_bytes
        });
        let fits = fits.count().max(1).min(changes.len());
        let whole = fits == changes.len();
        changes.truncate(fits);
        if let Some(until) = reader.until {
            changes.retain(|change| change.seq <= until);
        }
        self.hub.metrics.catch_ups.of(CatchUpSource::Recent).inc();
        let upto = changes.last().map_or(cursor, |last| last.seq);
        let live = match reader.until {
            None => whole,
            Some(until) => (whole || upto >= until) && self.hands_over(reader),
        };
        self.pass(reader, cursor, &changes, upto, live);
        if live { Progress::Live } else { Progress::More }
    }

    /// At the end of its part, whether the project's room brings an entity's reader the rest. That room may
    /// have been left meanwhile: then the reader goes on, up to where the room was joined again if it was.
    fn hands_over(&self, reader: &mut CatchUp) -> bool {
        if reader.entity.is_none() {
            return true;
        }
        let covered = self.covered_since(reader.conn.slot, reader.feed.project());
        let hands_over = covered.is_some_and(|since| reader.until >= Some(since));
        if !hands_over {
            reader.until = covered;
        }
        hands_over
    }

    /// Since when a connection's entities of this project come by the project's room, if it is there.
    pub(super) fn covered_since(&self, slot: Slot, project: &ProjectId) -> Option<Seq> {
        self.state.borrow().registry.get(project)?.reads_all_since(slot)
    }
}
