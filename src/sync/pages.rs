//! Reads of the log for those who catch up: bounded in number, and shared by all who ask for the same
//! page at the same time, as after an outage everyone does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OnceCell, Semaphore};

use crate::config;
use crate::fanout::EncodedChange;
use crate::id::{Epoch, ProjectId, Seq};
use crate::store::{Store, StoreError};

/// Part of the log, encoded for readers.
#[derive(Debug)]
pub struct Page {
    /// The changes, in order.
    pub changes: Vec<Arc<EncodedChange>>,
    /// The log's last position when the page was read.
    pub head: Seq,
    /// The identity of the sequence.
    pub epoch: Epoch,
    /// Changes up to and including this one are gone.
    pub floor: Seq,
}

type Shared = OnceCell<Arc<Page>>;

/// Reads pages of the log.
#[derive(Debug)]
pub struct Pages {
    store: Store,
    reads: Semaphore,
    changes: u32,
    bytes: u64,
    /// Pages somebody is reading or still sending.
    shared: Mutex<HashMap<(ProjectId, Seq), Weak<Shared>>>,
}

impl Pages {
    /// A reader within the configured limits.
    #[must_use]
    pub fn new(store: Store, limits: &config::Limits) -> Self {
        Self {
            store,
            reads: Semaphore::new(limits.catch_ups),
            changes: limits.page_changes,
            bytes: limits.catch_up_bytes as u64,
            shared: Mutex::new(HashMap::new()),
        }
    }

    /// The page after `after`.
    ///
    /// # Errors
    /// What the store says; another try reads again.
    pub async fn read(&self, project: &ProjectId, after: Seq) -> Result<Arc<Page>, StoreError> {
        let cell = self.share(project, after);
        let page = cell.get_or_try_init(|| async {
            let _permit = self.reads.acquire().await.expect("the semaphore is never closed");
            let page = self.store.page(project, after, self.changes, self.bytes).await?;
            let encode = |entry| Arc::new(EncodedChange::new(project, entry));
            Ok::<_, StoreError>(Arc::new(Page {
                changes: page.entries.iter().map(encode).collect(),
                head: page.head,
                epoch: page.epoch,
                floor: page.floor,
            }))
        });
        let page = page.await.cloned();
        self.forget(project, after, &cell);
        page
    }

    fn share(&self, project: &ProjectId, after: Seq) -> Arc<Shared> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (project.clone(), after);
        if let Some(cell) = shared.get(&key).and_then(Weak::upgrade) {
            return cell;
        }
        if shared.len() > self.reads.available_permits() + 1024 {
            shared.retain(|_, cell| cell.strong_count() > 0); // readers that went away half-way
        }
        let cell = Arc::new(Shared::new());
        shared.insert(key, Arc::downgrade(&cell));
        cell
    }

    /// A page that was read is not handed to later callers: the log has grown since.
    fn forget(&self, project: &ProjectId, after: Seq, cell: &Arc<Shared>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (project.clone(), after);
        if shared.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(cell))) {
            shared.remove(&key);
        }
    }
}
