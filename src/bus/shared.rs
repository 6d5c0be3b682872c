//! What the handles of a Redis bus share with its supervisor and its connections.
//!
//! Every lock is held for a few map operations and never across an await.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::address::Address;
use super::{BusError, BusEvent, Stats, Topic, queue, wire};
use crate::id::InstanceId;

/// A message on its way out.
pub(super) struct Publication {
    pub(super) channel: String,
    pub(super) message: Vec<u8>,
}

pub(super) struct Shared {
    pub(super) address: Address,
    pub(super) prefix: String,
    pub(super) instance: InstanceId,
    pub(super) probe_interval: Duration,
    pub(super) events: queue::Sender<BusEvent>,
    /// Whether every topic is subscribed. Written with `subscriptions` locked.
    pub(super) up: Arc<AtomicBool>,
    pub(super) counters: Counters,
    /// Wakes the supervisor when `subscriptions` changed.
    pub(super) changed: Notify,
    subscriptions: Mutex<Subscriptions>,
    routes: RwLock<Routes>,
}

/// What is to be subscribed, and what the supervisor has not looked at yet.
#[derive(Default)]
pub(super) struct Subscriptions {
    pub(super) wanted: HashSet<Topic>,
    /// Topics whose subscription may differ from what is wanted.
    pub(super) changed: HashSet<Topic>,
    /// Told when everything in `changed` is confirmed; dropped when the link breaks.
    pub(super) waiting: Vec<oneshot::Sender<()>>,
}

/// Which connection publishes to which hash slots.
pub(super) type Routes = Vec<(RangeInclusive<u16>, queue::Sender<Publication>)>;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) lag_ms: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        address: Address,
        config: &crate::config::Bus,
        instance: InstanceId,
        events: queue::Sender<BusEvent>,
    ) -> Self {
        Self {
            address,
            prefix: config.prefix.clone(),
            instance,
            probe_interval: config.probe_interval,
            events,
            up: Arc::default(),
            counters: Counters::default(),
            changed: Notify::new(),
            subscriptions: Mutex::default(),
            routes: RwLock::default(),
        }
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_routes(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    pub(super) async fn subscribe(&self, topic: Topic) -> Result<(), BusError> {
        let confirmed = {
            let mut subscriptions = self.subscriptions();
            subscriptions.wanted.insert(topic.clone());
            subscriptions.changed.insert(topic);
            if !self.up.load(Relaxed) {
                return Err(BusError::LinkDown);
            }
            let (tell, confirmed) = oneshot::channel();
            subscriptions.waiting.push(tell);
            confirmed
        };
        self.changed.notify_one();
        confirmed.await.map_err(|_| BusError::LinkDown)
    }

    pub(super) fn unsubscribe(&self, topic: Topic) {
        let mut subscriptions = self.subscriptions();
        subscriptions.wanted.remove(&topic);
        subscriptions.changed.insert(topic);
        drop(subscriptions);
        self.changed.notify_one();
    }

    pub(super) fn publish(&self, topic: &Topic, payload: &[u8]) {
        let channel = topic.channel(&self.prefix);
        let slot = wire::slot(&channel);
        let message = wire::seal(self.instance, now_ms(), payload);
        let bytes = channel.len() + message.len();
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let sent = routes
            .iter()
            .find(|(slots, _)| slots.contains(&slot))
            .is_some_and(|(_, outbox)| outbox.push(Publication { channel, message }, bytes));
        if !sent {
            self.dropped(1);
        }
    }

    /// Takes in what a connection received, unless it is this instance's own.
    pub(super) fn deliver(&self, channel: &[u8], message: Vec<u8>) {
        let Some(topic) = Topic::of_channel(&self.prefix, channel) else { return };
        let Some((origin, sent_at_ms, payload)) = wire::open(Bytes::from(message)) else {
            return self.dropped(1);
        };
        if origin == self.instance {
            return;
        }
        self.counters.lag_ms.store(now_ms().saturating_sub(sent_at_ms), Relaxed);
        let bytes = payload.len();
        if self.events.push(BusEvent::Message { topic, payload, sent_at_ms }, bytes) {
            self.counters.received.fetch_add(1, Relaxed);
        } else {
            self.dropped(1);
        }
    }

    pub(super) fn dropped(&self, messages: u64) {
        self.counters.dropped.fetch_add(messages, Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            published: self.counters.published.load(Relaxed),
            received: self.counters.received.load(Relaxed),
            dropped: self.counters.dropped.load(Relaxed),
            lag: Duration::from_millis(self.counters.lag_ms.load(Relaxed)),
        }
    }
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
