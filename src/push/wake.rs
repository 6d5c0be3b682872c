//! A bell for the senders of this process: cheap to ring, never forgotten.

use std::sync::Arc;

use tokio::sync::watch;

/// The bell; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Wake(Arc<watch::Sender<u64>>);

impl Default for Wake {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Wake {
    /// Wakes every sender, also one that looks up only later.
    pub(super) fn ring(&self) {
        self.0.send_modify(|rung| *rung = rung.wrapping_add(1));
    }

    /// An ear for the bell.
    #[must_use]
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
