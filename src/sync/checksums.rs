//! Checksums of what a role may read of a project, each computed once however many ask for it.
//!
//! A checksum is good for one head. Whoever asks for the same one waits for the reader that is at it; it
//! is kept until the head moves or the place is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::delta::Wanted;
use crate::id::{EntityType, Epoch, ProjectId, Seq};
use crate::protocol::sums::Sums;
use crate::store::{Store, StoreError};

/// Checksums kept.
const KEPT: usize = 256;
/// Projects read at once: each takes a connection to the store until it is through.
const AT_ONCE: usize = 2;

/// A project, the visibility class, and the types asked for.
type Key = (ProjectId, u16, Option<Box<[EntityType]>>);
/// Held by whoever reads.
type Place = Arc<tokio::sync::Mutex<Option<Checksum>>>;

/// The checksum of a scope at one position.
#[derive(Debug, Clone)]
pub struct Checksum {
    /// The position of the project's last change.
    pub head: Seq,
    /// The identity of the sequence.
    pub epoch: Epoch,
    /// The buckets.
    pub sums: Arc<Sums>,
}

/// Computes checksums. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checksums {
    store: Store,
    /// Where to compute: not on a thread that serves connections.
    runtime: Handle,
    scans: Arc<Semaphore>,
    places: Arc<Mutex<HashMap<Key, Place>>>,
}

impl Checksums {
    /// Knows none yet.
    #[must_use]
    pub fn new(store: Store, runtime: Handle) -> Self {
        let (scans, places) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::default());
        Self { store, runtime, scans, places }
    }

    /// The checksum of what is wanted of a project; buckets in `wanted` do not matter.
    ///
    /// # Errors
    /// What the store says; another try reads again.
    pub async fn read(&self, project: &ProjectId, wanted: Wanted) -> Result<Checksum, StoreError> {
        let place = self.place((project.clone(), wanted.role.class, wanted.types.clone()));
        let (this, project) = (self.clone(), project.clone());
        // It is read to the end though the one who asked goes away: the next to ask has it then.
        let reading = self.runtime.spawn(async move {
            let mut kept = place.lock().await;
            let now = this.store.open_project(&project).await?;
            let good = |sum: &&Checksum| sum.head == now.head && sum.epoch == now.epoch;
            if let Some(sum) = kept.as_ref().filter(good) {
                return Ok(sum.clone());
            }
            let _scan = this.scans.acquire().await.expect("the semaphore is never closed");
            let sum = this.compute(&project, &wanted).await?;
            *kept = Some(sum.clone());
            Ok(sum)
        });
        reading.await.map_err(|_| StoreError::interrupted())?
    }

    async fn compute(&self, project: &ProjectId, wanted: &Wanted) -> Result<Checksum, StoreError> {
        let mut sums = Sums::default();
        let scan = self.store.scan(project, |key, version| {
            if wanted.role.can_read(&key.kind)
                && wanted.types.as_ref().is_none_or(|types| types.contains(&key.kind))
            {
                sums.add(&key, version);
            }
        });
        let head = scan.await?.ok_or_else(StoreError::interrupted)?;
        Ok(Checksum { head: head.head, epoch: head.epoch, sums: Arc::new(sums) })
    }

    fn place(&self, key: Key) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= KEPT && !places.contains_key(&key) {
            // Those nobody is at; the next to ask reads again.
            places.retain(|_, place| Arc::strong_count(place) > 1);
        }
        places.entry(key).or_default().clone()
    }
}
