//! The bus: how the instances of one hub hear of each other.
//!
//! `app` opens it; the fan-out subscribes a topic for its first local subscriber, publishes what it
//! delivered locally, and reads [`Events`]. The bus is a shortcut and never the truth: it may drop a
//! message, and says when it may have ([`BusEvent::Healed`]); the store then tells what was missed.
//!
//! Invariants:
//! - a message of this instance never comes back to it;
//! - [`Bus::subscribe`] answers `Ok` only once the server confirmed the subscription;
//! - [`Bus::publish`] and [`Bus::unsubscribe`] never wait;
//! - after [`BusEvent::Suspect`], [`BusEvent::Healed`] comes only when every topic is subscribed again.

mod address;
mod link;
mod node;
pub(crate) mod queue;
mod shared;
mod supervisor;
mod topology;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::id::InstanceId;

use address::Address;
use shared::Shared;

pub(crate) use link::{RESPONSE_TIMEOUT, listen};
pub use link::{RedisLink, key};
pub use wire::Topic;

/// Bytes that may wait to be read from [`Events`].
const INBOX: usize = 16 << 20;

/// What can be wrong with the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The configured address is none. It may hold a password and is not repeated.
    #[error(
        "bus.url must be `local`, `redis://[user:password@]host:port` or `redis+cluster://host:port[,host:port…]`"
    )]
    InvalidUrl,
    /// A Redis link was asked for where the bus is local.
    #[error("bus.url is `local`: there is no Redis to talk to")]
    NotRedis,
    /// The link is down. A subscription is remembered and made when the link is back.
    #[error("the bus link is down")]
    LinkDown,
    /// Redis or the connection to it failed.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

/// What the bus reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// Another instance published.
    Message {
        /// On which topic.
        topic: Topic,
        /// What it published.
        payload: Bytes,
        /// When, in milliseconds of the Unix epoch on the sender's clock.
        sent_at_ms: u64,
    },
    /// The link failed: messages are being missed until [`BusEvent::Healed`].
    Suspect,
    /// The link is up and every topic is subscribed. Anything may have been missed: heal from the store.
    Healed,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Messages the server accepted, probes included.
    pub published: u64,
    /// Messages of other instances that were taken in.
    pub received: u64,
    /// Messages lost: the link was down or a queue full, on the way out or in.
    pub dropped: u64,
    /// How long the last message received was on its way, as far as the clocks agree.
    pub lag: Duration,
}

/// A handle to the bus. Clones are cheap.
#[derive(Clone)]
pub struct Bus {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// One instance: nobody to talk to.
    Local(#[expect(dead_code, reason = "held so that `Events` waits")] queue::Sender<BusEvent>),
    Redis(Arc<Shared>),
}

impl std::fmt::Debug for Bus {
    /// Not the address: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("link_up", &self.link_up()).finish_non_exhaustive()
    }
}

impl Bus {
    /// The bus of `[bus] url`, for this instance. Nothing is connected before [`Bus::run`].
    ///
    /// # Errors
    /// [`BusError::InvalidUrl`] for what is no address.
    pub fn open(config: &config::Bus, instance: InstanceId) -> Result<(Self, Events), BusError> {
        let (events, queue) = queue::queue(INBOX);
        let (kind, up) = match Address::parse(&config.url)? {
            None => (Kind::Local(events), Arc::default()),
            Some(address) => {
                let shared = Shared::new(address, config, instance, events);
                let up = shared.up.clone();
                (Kind::Redis(Arc::new(shared)), up)
            }
        };
        Ok((Self { kind }, Events { queue, up }))
    }

    /// Keeps the link until `shutdown`, then sends what waits. To be spawned once.
    pub async fn run(self, shutdown: CancellationToken) {
        match self.kind {
            Kind::Local(_) => shutdown.cancelled().await,
            Kind::Redis(shared) => supervisor::run(shared, shutdown).await,
        }
    }

    /// Subscribes a topic; `Ok` when what is published from now on will arrive.
    ///
    /// # Errors
    /// [`BusError::LinkDown`] at once if the link is down, or as soon as it breaks. The topic is
    /// remembered all the same and subscribed before the next [`BusEvent::Healed`].
    pub async fn subscribe(&self, topic: Topic) -> Result<(), BusError> {
        match &self.kind {
            Kind::Local(_) => Ok(()),
            Kind::Redis(shared) => shared.subscribe(topic).await,
        }
    }

    /// Unsubscribes a topic. A message on its way may still arrive.
    pub fn unsubscribe(&self, topic: Topic) {
        if let Kind::Redis(shared) = &self.kind {
            shared.unsubscribe(topic);
        }
    }

    /// Sends `payload` to the other instances that subscribed `topic`, best effort.
    pub fn publish(&self, topic: &Topic, payload: &[u8]) {
        if let Kind::Redis(shared) = &self.kind {
            shared.publish(topic, payload);
        }
    }

    /// Whether there is nobody to talk to.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Local(_))
    }

    /// Whether every topic is subscribed.
    #[must_use]
    pub fn link_up(&self) -> bool {
        match &self.kind {
            Kind::Local(_) => true,
            Kind::Redis(shared) => shared.up.load(Relaxed),
        }
    }

    /// The counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match &self.kind {
            Kind::Local(_) => Stats::default(),
            Kind::Redis(shared) => shared.stats(),
        }
    }
}

/// What the bus has to report, in order. Bounded by bytes: when its reader falls behind, messages are
/// dropped and [`BusEvent::Healed`] follows, as after a break.
pub struct Events {
    queue: queue::Receiver<BusEvent>,
    up: Arc<AtomicBool>,
}

impl Events {
    /// The next event; `None` when the bus is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<BusEvent> {
        if let Some(event) = self.queue.try_recv() {
            return Some(event);
        }
        // While the link is down, a Healed of its own will follow.
        if self.queue.take_refused() && self.up.load(Relaxed) {
            return Some(BusEvent::Healed);
        }
        self.queue.recv().await
    }
}
