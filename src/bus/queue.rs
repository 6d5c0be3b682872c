//! A queue bounded by bytes whose sender never waits: what does not fit is refused and the sender told.
//!
//! Used on both sides of the bus: what waits to be published, and what waits to be read by the hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::sync::mpsc;

/// What an item costs beside its bytes: its place in the queue, its allocation.
const OVERHEAD: usize = 96;

/// A queue that refuses items once `limit` bytes wait in it.
pub(crate) fn queue<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let gauge =
        Arc::new(Gauge { limit, bytes: AtomicUsize::new(0), refused: AtomicBool::new(false) });
    (Sender { tx, gauge: gauge.clone() }, Receiver { rx, gauge })
}

struct Gauge {
    limit: usize,
    bytes: AtomicUsize,
    refused: AtomicBool,
}

pub(crate) struct Sender<T> {
    tx: mpsc::UnboundedSender<(T, usize)>,
    gauge: Arc<Gauge>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { tx: self.tx.clone(), gauge: self.gauge.clone() }
    }
}

impl<T> Sender<T> {
    /// Queues an item of `bytes`; `false` if the queue is full or nobody reads it any more. An empty
    /// queue takes an item of any size.
    pub(crate) fn push(&self, item: T, bytes: usize) -> bool {
        if self.gauge.bytes.load(Relaxed) >= self.gauge.limit {
            self.gauge.refused.store(true, Relaxed);
            return false;
        }
        self.send(item, bytes + OVERHEAD)
    }

    /// Queues an item that must not be lost, full or not: the few signals among the messages.
    pub(crate) fn force(&self, item: T) -> bool {
        self.send(item, OVERHEAD)
    }

    fn send(&self, item: T, weight: usize) -> bool {
        self.gauge.bytes.fetch_add(weight, Relaxed);
        self.tx.send((item, weight)).is_ok()
    }
}

pub(crate) struct Receiver<T> {
    rx: mpsc::UnboundedReceiver<(T, usize)>,
    gauge: Arc<Gauge>,
}

impl<T> Receiver<T> {
    /// The next item; `None` once all senders are gone and the queue is empty.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        let (item, weight) = self.rx.recv().await?;
        self.gauge.bytes.fetch_sub(weight, Relaxed);
        Some(item)
    }

    /// The next item if one waits.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        let (item, weight) = self.rx.try_recv().ok()?;
        self.gauge.bytes.fetch_sub(weight, Relaxed);
        Some(item)
    }

    /// Whether an item was refused since this was last asked.
    pub(crate) fn take_refused(&self) -> bool {
        self.gauge.refused.swap(false, Relaxed)
    }

    /// Lets nothing more in; what waits can still be taken.
    pub(crate) fn close(&mut self) {
        self.rx.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_says_so_once() {
        let (tx, mut rx) = queue(1000);
        assert!(tx.push(1, 5000), "an empty queue takes an item of any size");
        assert!(!tx.push(2, 1), "a full queue took an item");
        assert!(tx.force(3));
        assert!(rx.take_refused());
        assert!(!rx.take_refused());
        assert_eq!((rx.recv().await, rx.try_recv(), rx.try_recv()), (Some(1), Some(3), None));
        assert!(tx.push(4, 1), "an emptied queue takes items again");
        rx.close();
        assert!(!tx.push(5, 1));
        assert_eq!((rx.recv().await, rx.recv().await), (Some(4), None));
    }
}
