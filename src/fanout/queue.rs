//! What waits for one shard: bounded in messages and in the bytes of their frames.
//!
//! A message that does not fit is not waited for. Changes stay in their feed and are sent from there later,
//! what is ephemeral is dropped and counted, and what has to come true is found by the shard itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::ToShard;

/// Messages that may wait for one shard.
const MESSAGES: usize = 16_384;
/// Bytes of frames that may. A frame may be a megabyte, and so many messages of that size no memory holds.
const BYTES: usize = 64 << 20;

/// The sending side of one shard's queue.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    queue: mpsc::Sender<ToShard>,
    /// Bytes of frames that wait.
    waiting: Arc<AtomicUsize>,
    /// Whether it was not told that somebody's grants changed.
    regrant_all: Arc<AtomicBool>,
}

/// The end that the shard reads.
#[derive(Debug)]
pub struct ShardQueue {
    queue: mpsc::Receiver<ToShard>,
    waiting: Arc<AtomicUsize>,
}

impl ShardHandle {
    /// A shard's queue: both ends.
    #[must_use]
    pub fn channel() -> (Self, ShardQueue) {
        let (sender, receiver) = mpsc::channel(MESSAGES);
        let waiting = Arc::<AtomicUsize>::default();
        let queue = ShardQueue { queue: receiver, waiting: waiting.clone() };
        (Self { queue: sender, waiting, regrant_all: Arc::default() }, queue)
    }

    /// Puts a message into the queue unless it is full; whether it did.
    #[must_use]
    pub fn send(&self, message: ToShard) -> bool {
        let bytes = message.bytes();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // What has no frame always fits, and a message of any size may wait alone.
        let fits = bytes == 0 || before == 0 || before + bytes <= BYTES;
        let sent = fits && self.queue.try_send(message).is_ok();
        if !sent {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Has the shard ask anew what everyone on it is granted, when it next sweeps.
    pub fn regrant_all(&self) {
        self.regrant_all.store(true, Ordering::Release);
    }

    /// Whether the shard has to ask anew for everyone, because its queue was full once; asking clears it.
    #[must_use]
    pub fn take_regrant_all(&self) -> bool {
        self.regrant_all.swap(false, Ordering::AcqRel)
    }
}

impl ShardQueue {
    /// Waits for messages and appends up to `limit` of them; none once nobody sends any more. Cancelled, it
    /// has taken none.
    pub async fn recv_many(&mut self, messages: &mut Vec<ToShard>, limit: usize) -> usize {
        let before = messages.len();
        let count = self.queue.recv_many(messages, limit).await;
        let bytes = messages[before..].iter().map(ToShard::bytes).sum();
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        count
    }

    /// The next message, if one waits.
    #[cfg(test)]
    pub(crate) fn try_recv(&mut self) -> Option<ToShard> {
        let message = self.queue.try_recv().ok()?;
        self.waiting.fetch_sub(message.bytes(), Ordering::Relaxed);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(bytes: usize) -> ToShard {
        let room = Arc::new("room:p:x".parse().unwrap());
        ToShard::Event { room, frame: Bytes::from(vec![b'x'; bytes]), except: None }
    }

    #[tokio::test]
    async fn frames_that_wait_are_bounded_in_bytes() {
        let (handle, mut queue) = ShardHandle::channel();
        assert!(handle.send(event(BYTES + 1)), "alone, whatever its size");
        assert!(!handle.send(event(1)));
        assert!(handle.send(ToShard::Drain), "it has no frame");
        let mut messages = Vec::new();
        assert_eq!(queue.recv_many(&mut messages, 10).await, 2);
        assert!(handle.send(event(BYTES / 2)) && handle.send(event(BYTES / 2)));
        assert!(!handle.send(event(1)));
        assert!(queue.try_recv().is_some());
        assert!(handle.send(event(BYTES / 2)));
    }

    #[test]
    fn a_message_that_was_not_sent_takes_no_room() {
        let (handle, mut queue) = ShardHandle::channel();
        while handle.send(ToShard::Drain) {}
        assert!(!handle.send(event(BYTES)));
        while queue.try_recv().is_some() {}
        assert!(handle.send(event(1)) && handle.send(event(BYTES - 1)));
    }
}
