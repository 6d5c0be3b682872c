//! Delta sync: the latest state of what changed after a cursor, read piece by piece.
//!
//! `net::changes` writes the pieces to a response as they are read, so a reply of any length costs the
//! memory of one piece. Every piece is a snapshot of its own: an entity that changes meanwhile moves ahead
//! of the reader and comes in a later one. No transaction is held between two, however slow the client.
//!
//! A reply ends after as many rows as were asked for, or after `MOST_KEYS` entities were looked at: a
//! reader that wants few of many gets on all the same, and costs no more than others.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::auth::Role;
use crate::config;
use crate::id::{EntityKey, EntityType, Epoch, ProjectId, Seq};
use crate::protocol::server::ResyncReason;
use crate::protocol::sums::BucketSet;
use crate::store::{DeltaRow, Store, StoreError};

/// Rows in a piece at most.
const PIECE_ROWS: u32 = 500;
/// Rows in the first piece of a reply, before it is known how large they are.
const FIRST_ROWS: u32 = 32;
/// Bytes of fields in a piece, beyond its first row.
const PIECE_BYTES: u64 = 64 << 10;
/// Entities looked at in one statement by a reader that does not want all: it begins with as many as a
/// piece has rows at most, and doubles while few of them are wanted.
const PIECE_KEYS: u32 = 5_000;
/// Entities gone past for one reply by a reader that does not want all.
const MOST_KEYS: u32 = 100_000;

/// Why a reply that had begun cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// What the store says.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sequence was replaced, or tombstones the reader still needs were purged.
    #[error("the project's past changed while it was read; ask again from the last cursor")]
    PastChanged,
    /// What is read is not for this reader any more.
    #[error("the reader's role changed while the reply was written; ask again")]
    RoleChanged,
}

/// What a reader is to get.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Whose eyes it is for.
    pub role: Arc<Role>,
    /// These types alone.
    pub types: Option<Box<[EntityType]>>,
    /// These buckets of the checksum alone.
    pub buckets: Option<BucketSet>,
}

impl Wanted {
    /// Whether nothing is left out, so that rows can be read without looking at keys first.
    fn everything(&self) -> bool {
        self.types.is_none() && self.buckets.is_none() && self.role.reads_everything()
    }

    /// Whether this entity belongs to it.
    #[must_use]
    pub fn takes(&self, key: &EntityKey) -> bool {
        self.takes_type(&key.kind) && self.buckets.is_none_or(|buckets| buckets.contains(key))
    }

    /// Whether entities of this type belong to it.
    #[must_use]
    pub fn takes_type(&self, kind: &EntityType) -> bool {
        self.role.can_read(kind) && self.types.as_ref().is_none_or(|types| types.contains(kind))
    }
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    /// The last position it has stored.
    pub since: Seq,
    /// The sequence that is a position in.
    pub epoch: Option<Epoch>,
    /// If it is in the middle of reading everything: the head when it began. Deletes before that cannot
    /// have been missed.
    pub begun: Option<Seq>,
    /// Whether the role reads otherwise than when the cursor was stored.
    pub scope_changed: bool,
}

impl Cursor {
    /// Why it is of no use, if it is not.
    fn resync(&self, piece: &Piece) -> Option<ResyncReason> {
        let known = self.begun.map_or(self.since, |begun| self.since.max(begun));
        if known > piece.head || self.epoch.is_some_and(|epoch| epoch != piece.epoch) {
            Some(ResyncReason::EpochChanged)
        } else if self.since > Seq::ZERO && self.scope_changed {
            Some(ResyncReason::ScopeChanged)
        } else if self.since > Seq::ZERO && known < piece.floor {
            Some(ResyncReason::CursorTooOld)
        } else {
            None
        }
    }
}

/// How much a reply may hold.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Rows.
    pub rows: u32,
    /// Bytes of fields, beyond the first row.
    pub bytes: u64,
}

/// Reads deltas, a bounded number at a time, so that writes find a connection to the store.
#[derive(Debug, Clone)]
pub struct Deltas {
    store: Store,
    reads: Arc<Semaphore>,
}

impl Deltas {
    /// Takes half of the store's connections at most.
    #[must_use]
    pub fn new(store: Store, config: &config::Store) -> Self {
        let reads = (config.connections / 2).max(1) as usize;
        Self { store, reads: Arc::new(Semaphore::new(reads)) }
    }

    /// Begins a reply with its first rows; [`Reading::next`] has the others. With a cursor that is of no
    /// use it begins anew.
    ///
    /// # Errors
    /// What the store says.
    pub async fn begin(
        &self,
        project: &ProjectId,
        wanted: Wanted,
        cursor: Cursor,
        room: Room,
    ) -> Result<(Reading, Vec<DeltaRow>), StoreError> {
        let mut reading = Reading {
            deltas: self.clone(),
            project: project.clone(),
            wanted,
            at: cursor.since,
            begun: cursor.begun.filter(|_| cursor.since > Seq::ZERO),
            epoch: Epoch(uuid::Uuid::nil()),
            resync: None,
            rows_left: room.rows.max(1),
            bytes_left: room.bytes,
            keys_left: MOST_KEYS,
            fit: FIRST_ROWS,
            look: PIECE_ROWS,
            more: true,
        };
        let mut piece = reading.piece().await?;
        reading.resync = cursor.resync(&piece);
        if reading.resync.is_some() {
            (reading.at, reading.begun) = (Seq::ZERO, None);
            piece = reading.piece().await?;
        }
        reading.epoch = piece.epoch;
        if reading.at == Seq::ZERO {
            reading.begun = Some(piece.head);
        }
        let rows = reading.take(piece);
        Ok((reading, rows))
    }
}

/// A reply under way.
#[derive(Debug)]
pub struct Reading {
    deltas: Deltas,
    project: ProjectId,
    wanted: Wanted,
    /// Everything up to here is in the reply or not wanted.
    at: Seq,
    begun: Option<Seq>,
    epoch: Epoch,
    resync: Option<ResyncReason>,
    rows_left: u32,
    bytes_left: u64,
    keys_left: u32,
    /// How many rows are expected to fit into the next piece: what is read and does not fit would be read again.
    fit: u32,
    look: u32,
    more: bool,
}

/// What one turn at the store brought.
struct Piece {
    rows: Vec<DeltaRow>,
    /// How far it reaches.
    at: Seq,
    /// Whether there was nothing beyond.
    last: bool,
    /// Entities it went past by their keys.
    keys: u32,
    /// Whether few of the entities looked at were wanted.
    few: bool,
    head: Seq,
    epoch: Epoch,
    floor: Seq,
}

impl Reading {
    /// The next rows; none if the reply ends here.
    ///
    /// # Errors
    /// [`DeltaError`]: the reply cannot be finished.
    pub async fn next(&mut self) -> Result<Option<Vec<DeltaRow>>, DeltaError> {
        if self.is_full() {
            return Ok(None);
        }
        let piece = self.piece().await?;
        let known = self.begun.map_or(self.at, |begun| self.at.max(begun));
        if piece.epoch != self.epoch || known < piece.floor {
            return Err(DeltaError::PastChanged);
        }
        Ok(Some(self.take(piece)))
    }

    /// Whether the reply ends here: it has all there is, or all that fits.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.more || self.rows_left == 0 || self.keys_left == 0 || self.bytes_left == 0
    }

    /// The cursor to store with the rows so far.
    #[must_use]
    pub fn cursor(&self) -> Seq {
        self.at
    }

    /// Whether more follows after the cursor.
    #[must_use]
    pub fn more(&self) -> bool {
        self.more
    }

    /// For a reader of everything that is not through yet: when it began, to bring along.
    #[must_use]
    pub fn begun(&self) -> Option<Seq> {
        self.begun.filter(|_| self.more)
    }

    /// The identity of the sequence.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Why the reply began anew.
    #[must_use]
    pub fn resync(&self) -> Option<ResyncReason> {
        self.resync
    }

    fn take(&mut self, piece: Piece) -> Vec<DeltaRow> {
        let rows = u32::try_from(piece.rows.len()).unwrap_or(u32::MAX);
        let bytes: u64 = piece.rows.iter().map(|row| row.fields.get().len() as u64).sum();
        self.rows_left = self.rows_left.saturating_sub(rows);
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        if let Some(size) = bytes.checked_div(u64::from(rows)) {
            let fit = u32::try_from(PIECE_BYTES.div_ceil(size.max(1))).unwrap_or(PIECE_ROWS);
            self.fit = fit.min(PIECE_ROWS);
        }
        self.keys_left = self.keys_left.saturating_sub(piece.keys);
        self.look = if piece.few { (self.look * 2).min(PIECE_KEYS) } else { PIECE_ROWS };
        self.at = piece.at;
        self.more = !piece.last;
        piece.rows
    }

    async fn piece(&self) -> Result<Piece, StoreError> {
        let _read = self.deltas.reads.acquire().await.expect("the semaphore is never closed");
        if self.wanted.everything() { self.all().await } else { self.some().await }
    }

    async fn all(&self) -> Result<Piece, StoreError> {
        let (store, limit) = (&self.deltas.store, self.rows_left.min(self.fit));
        let bytes = self.bytes_left.min(PIECE_BYTES);
        let page = store.delta(&self.project, self.at, limit, bytes).await?;
        let full = page.cut || page.rows.len() >= limit as usize;
        // A full page whose last row is the head has nothing behind it either.
        let reached = page.rows.last().map(|row| row.version);
        let at = reached.filter(|at| full && *at < page.head).unwrap_or(page.head);
        Ok(Piece {
            last: at == page.head,
            at,
            rows: page.rows,
            keys: 0,
            few: false,
            head: page.head,
            epoch: page.epoch,
            floor: page.tombstone_floor,
        })
    }

    async fn some(&self) -> Result<Piece, StoreError> {
        let (store, limit) = (&self.deltas.store, self.keys_left.min(self.look));
        let keys = store.delta_keys(&self.project, self.at, limit).await?;
        let reached = keys.rows.last().map(|(_, version)| *version);
        let full = keys.rows.len() >= limit as usize;
        let mut at = reached.filter(|at| full && *at < keys.head).unwrap_or(keys.head);
        let wanted = keys.rows.iter().filter(|(key, _)| self.wanted.takes(key));
        let mut versions: Vec<Seq> = wanted.map(|(_, version)| *version).collect();
        let fit = self.rows_left.min(self.fit) as usize;
        let few = versions.len() < fit.div_ceil(2);
        if versions.len() > fit {
            versions.truncate(fit);
            at = *versions.last().expect("at least one row fits");
        }
        let mut rows = Vec::new();
        if !versions.is_empty() {
            let bytes = self.bytes_left.min(PIECE_BYTES);
            let page = store.delta_rows(&self.project, &versions, bytes).await?;
            // Rows that moved on since are not there; a later piece has them.
            if let Some(last) = page.rows.last().filter(|_| page.cut) {
                at = last.version;
            }
            rows = page.rows;
        }
        let passed = keys.rows.iter().take_while(|(_, version)| *version <= at).count();
        Ok(Piece {
            rows,
            at,
            last: at == keys.head,
            keys: u32::try_from(passed).unwrap_or(u32::MAX),
            few,
            head: keys.head,
            epoch: keys.epoch,
            floor: keys.tombstone_floor,
        })
    }
}
