//! Checksums of what a role may read of a project, from one scan of it whoever asks and for whatever types.
//!
//! A scan adds up every type on its own. A checksum is put together from those its reader asks for and may
//! read, so no question, however it is put, costs a scan of its own. A scan is kept, and serves everyone who
//! asked before it began.
//!
//! Who waits, waits in their own request: once they are gone, nothing is scanned for them. A scan that has
//! begun is finished, for whoever asks next.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::delta::Wanted;
use crate::id::{EntityKey, EntityType, Epoch, ProjectId, Seq};
use crate::protocol::sums::{Bucket, Sums, bucket};
use crate::store::{Store, StoreError};
use crate::telemetry::{Dropped, Metrics};

/// Projects whose scan is kept.
const KEPT: usize = 256;
/// Types in all scans that are kept, of at most 64 buckets each.
const KEPT_TYPES: usize = 4096;
/// Projects read at once: each takes a connection to the store until it is through.
const AT_ONCE: usize = 2;
/// Projects that may wait to be read.
const WAITING: usize = 32;

/// Held by whoever brings a project's scan up to date.
type Place = Arc<tokio::sync::Mutex<Option<Arc<Scan>>>>;

/// Why there is no checksum.
#[derive(Debug, thiserror::Error)]
pub enum ChecksumError {
    /// What the store says; another try reads again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// As many projects as may wait to be read.
    #[error("{WAITING} projects wait to be read already")]
    Busy,
}

/// The checksum of a scope at one position.
#[derive(Debug, Clone)]
pub struct Checksum {
    /// The position of the project's last change.
    pub head: Seq,
    /// The identity of the sequence.
    pub epoch: Epoch,
    /// The buckets.
    pub sums: Sums,
}

/// What the living entities of a project add up to, type by type.
#[derive(Debug)]
struct Scan {
    head: Seq,
    epoch: Epoch,
    types: Types,
}

/// The buckets that something is in: a project may have as many types as entities.
type Types = HashMap<EntityType, BTreeMap<u8, Bucket>>;

impl Scan {
    fn checksum(&self, wanted: &Wanted) -> Checksum {
        let mut sums = Sums::default();
        for (_, buckets) in self.types.iter().filter(|(kind, _)| wanted.takes_type(kind)) {
            buckets.iter().for_each(|(number, bucket)| sums.0[usize::from(*number)] += *bucket);
        }
        Checksum { head: self.head, epoch: self.epoch, sums }
    }
}

fn add(types: &mut Types, key: EntityKey, version: Seq) {
    let (number, one) = (bucket(&key), Bucket::of(&key, version));
    *types.entry(key.kind).or_default().entry(number).or_default() += one;
}

/// Computes checksums. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checksums {
    store: Store,
    metrics: Arc<Metrics>,
    /// Where to scan: not on a thread that serves connections.
    runtime: Handle,
    scans: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    places: Arc<Mutex<HashMap<ProjectId, Place>>>,
}

impl Checksums {
    /// Knows none yet.
    #[must_use]
    pub fn new(store: Store, metrics: Arc<Metrics>, runtime: Handle) -> Self {
        let [scans, waiting] = [AT_ONCE, WAITING].map(|n| Arc::new(Semaphore::new(n)));
        Self { store, metrics, runtime, scans, waiting, places: Arc::default() }
    }

    /// The checksum of what is wanted of a project; buckets in `wanted` do not matter.
    ///
    /// # Errors
    /// [`ChecksumError`]: ask again later.
    pub async fn read(
        &self,
        project: &ProjectId,
        wanted: &Wanted,
    ) -> Result<Checksum, ChecksumError> {
        // What is scanned from here on is new enough, however fast the project goes on meanwhile.
        let asked = self.store.open_project(project).await?;
        let mut kept = self.place(project).lock_owned().await;
        let good = |scan: &&Arc<Scan>| scan.epoch == asked.epoch && scan.head >= asked.head;
        if let Some(scan) = kept.as_ref().filter(good) {
            return Ok(scan.checksum(wanted));
        }
        let turn = self.turn().await?;
        let (this, project) = (self.clone(), project.clone());
        let scanning = self.runtime.spawn(async move {
            let scan = Arc::new(this.scan(&project).await?);
            *kept = Some(scan.clone());
            drop(turn);
            Ok::<_, StoreError>(scan)
        });
        let scan = scanning.await.map_err(|_| StoreError::interrupted())??;
        Ok(scan.checksum(wanted))
    }

    /// Waits to be one of those who scan.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, ChecksumError> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            self.metrics.drops.of(Dropped::Checksum).inc();
            return Err(ChecksumError::Busy);
        };
        Ok(self.scans.clone().acquire_owned().await.expect("the semaphore is never closed"))
    }

    async fn scan(&self, project: &ProjectId) -> Result<Scan, StoreError> {
        let (began, mut types) = (Instant::now(), Types::new());
        let head = self.store.scan(project, |key, version| add(&mut types, key, version)).await?;
        let head = head.ok_or_else(StoreError::interrupted)?;
        self.metrics.checksum_scan_seconds.observe(began.elapsed().as_secs_f64());
        Ok(Scan { head: head.head, epoch: head.epoch, types })
    }

    fn place(&self, project: &ProjectId) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if !places.contains_key(project) && (places.len() >= KEPT || types(&places) > KEPT_TYPES) {
            // Those nobody is at; the next to ask reads again.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(project.clone()).or_default().clone()
    }
}

/// How many types are kept. A place that somebody is at stays, whatever it holds.
fn types(places: &HashMap<ProjectId, Place>) -> usize {
    let kept = places.values().filter_map(|place| place.try_lock().ok());
    kept.map(|scan| scan.as_ref().map_or(0, |scan| scan.types.len())).sum()
}

#[cfg(test)]
mod tests;
