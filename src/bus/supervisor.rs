//! Keeps the Redis link: connects, subscribes, probes, and starts over when something breaks.
//!
//! One task per bus. There is one way to recover, whatever happened: drop the connection that broke, ask
//! the topology anew, connect what is missing, subscribe what is not subscribed, and only then say
//! [`BusEvent::Healed`]. Connections that did not break go on delivering meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::RESPONSE_TIMEOUT;
use super::node::{Node, Signal, What};
use super::shared::Shared;
use super::topology::{self, Target};
use super::{BusEvent, Topic, wire};

/// Between attempts: at least this, doubling to the other, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// A link that held this long starts the back-off anew.
const STABLE: Duration = Duration::from_secs(2);

pub(super) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let (signals, received) = mpsc::unbounded_channel();
    let mut supervisor = Supervisor {
        shared,
        nodes: Vec::new(),
        writers: JoinSet::new(),
        next_id: 0,
        signals,
        received,
        suspect: false,
    };
    shutdown.run_until_cancelled(supervisor.keep()).await;
    supervisor.stop().await;
}

struct Supervisor {
    shared: Arc<Shared>,
    nodes: Vec<Node>,
    writers: JoinSet<()>,
    next_id: u64,
    signals: mpsc::UnboundedSender<Signal>,
    received: mpsc::UnboundedReceiver<Signal>,
    /// Whether `Suspect` was said and `Healed` not yet.
    suspect: bool,
}

impl Supervisor {
    /// Establishes and watches, for ever.
    async fn keep(&mut self) {
        let mut attempt = 0;
        loop {
            let reason = match self.establish().await {
                Ok(()) => {
                    tracing::info!(servers = self.nodes.len(), "bus link is up");
                    let since = Instant::now();
                    let reason = self.watch().await;
                    if since.elapsed() >= STABLE {
                        attempt = 0;
                    }
                    reason
                }
                Err(reason) => reason,
            };
            self.down(&reason);
            sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// Brings the link to where every topic is subscribed, and says so.
    async fn establish(&mut self) -> Result<(), String> {
        while let Ok(signal) = self.received.try_recv() {
            // The reason was not waited for: all that matters now is which nodes are gone.
            let _ = self.judge(signal);
        }
        let known: Vec<Target> = self.nodes.iter().map(|node| node.target.clone()).collect();
        let targets = topology::targets(&self.shared.address, &known)
            .await
            .map_err(|error| error.to_string())?;
        self.nodes.retain(|node| targets.contains(&node.target));
        let failed = self.connect_missing(targets).await;
        while self.writers.try_join_next().is_some() {}
        self.publish_routes();
        self.mark_all_changed();
        loop {
            self.apply_changes().await?;
            if let Some(reason) = failed {
                return Err(reason);
            }
            let subscriptions = self.shared.subscriptions();
            if subscriptions.changed.is_empty() {
                self.shared.up.store(true, Relaxed);
                self.suspect = false;
                self.shared.events.force(BusEvent::Healed);
                return Ok(());
            }
        }
    }

    /// Connects to every target without a node; the reason of one that failed.
    async fn connect_missing(&mut self, targets: Vec<Target>) -> Option<String> {
        let missing: Vec<Target> = targets
            .into_iter()
            .filter(|target| !self.nodes.iter().any(|node| node.target == *target))
            .collect();
        let connecting = missing.into_iter().map(|target| {
            self.next_id += 1;
            Node::connect(&self.shared, target, self.next_id, self.signals.clone())
        });
        let mut failed = None;
        for connected in join_all(connecting.collect::<Vec<_>>()).await {
            match connected {
                Ok((node, writer)) => {
                    writer.spawn(&mut self.writers);
                    self.nodes.push(node);
                }
                Err(error) => failed = Some(error.to_string()),
            }
        }
        failed
    }

    /// Lives until the link breaks; says why.
    async fn watch(&mut self) -> String {
        let period = self.shared.probe_interval;
        let mut look = interval_at(Instant::now() + period, period);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = self.shared.clone();
        loop {
            let result = tokio::select! {
                Some(signal) = self.received.recv() => self.judge(signal),
                () = shared.changed.notified() => self.apply_changes().await,
                _ = look.tick() => self.look(),
            };
            if let Err(reason) = result {
                return reason;
            }
        }
    }

    /// Drops the node a signal condemns.
    fn judge(&mut self, signal: Signal) -> Result<(), String> {
        let Some(at) = self.nodes.iter().position(|node| node.id == signal.node) else {
            return Ok(());
        };
        let reason = match signal.what {
            What::Broken(reason) => reason,
            What::Unsubscribed(channel) if self.nodes[at].lost(&channel) => {
                "the server ended a subscription".to_owned()
            }
            What::Unsubscribed(_) => return Ok(()),
        };
        self.nodes.swap_remove(at);
        Err(reason)
    }

    /// Drops the nodes that gave no sign of life.
    fn look(&mut self) -> Result<(), String> {
        let before = self.nodes.len();
        self.nodes.retain_mut(Node::is_alive);
        if self.nodes.len() == before { Ok(()) } else { Err("no answer to a probe".to_owned()) }
    }

    /// Subscribes and unsubscribes what changed since the last time, all servers at once, and tells who
    /// waits for it. What could not be done stays changed.
    async fn apply_changes(&mut self) -> Result<(), String> {
        let (changed, waiting) = {
            let mut subscriptions = self.shared.subscriptions();
            let changed = std::mem::take(&mut subscriptions.changed);
            let changed: Vec<(Topic, bool)> = changed
                .into_iter()
                .map(|topic| {
                    let wanted = subscriptions.wanted.contains(&topic);
                    (topic, wanted)
                })
                .collect();
            (changed, std::mem::take(&mut subscriptions.waiting))
        };
        let mut shares: HashMap<u64, Vec<(Topic, bool)>> = HashMap::new();
        let mut failed = None;
        for (topic, wanted) in &changed {
            let slot = wire::slot(&topic.channel(&self.shared.prefix));
            match self.nodes.iter().find(|node| node.target.serves(slot)) {
                Some(node) => shares.entry(node.id).or_default().push((topic.clone(), *wanted)),
                None => failed = Some("no server for some topics".to_owned()),
            }
        }
        let applying = self.nodes.iter_mut().filter_map(|node| {
            let share = shares.remove(&node.id)?;
            Some(async move { (node.id, node.apply(share).await) })
        });
        for (id, result) in join_all(applying).await {
            if let Err(error) = result {
                // A refusal (a slot on its way elsewhere, say) leaves the connection good.
                if error.is_io_error() || error.is_unrecoverable_error() {
                    self.nodes.retain(|node| node.id != id);
                }
                failed = Some(error.to_string());
            }
        }
        if let Some(reason) = failed {
            let topics = changed.into_iter().map(|(topic, _)| topic);
            self.shared.subscriptions().changed.extend(topics);
            return Err(reason);
        }
        for waiter in waiting {
            // A caller that gave up does not want to be told.
            let _ = waiter.send(());
        }
        Ok(())
    }

    /// Lets everything be compared with what the nodes have: new ones have nothing.
    fn mark_all_changed(&self) {
        let mut subscriptions = self.shared.subscriptions();
        let wanted = subscriptions.wanted.clone();
        subscriptions.changed.extend(wanted);
    }

    fn publish_routes(&self) {
        let routes = self.nodes.iter().flat_map(|node| {
            node.target.slots.iter().map(|slots| (slots.clone(), node.outbox.clone()))
        });
        self.shared.set_routes(routes.collect());
    }

    /// Says that the link is down, unless that was said.
    fn down(&mut self, reason: &str) {
        self.unlink();
        if !self.suspect {
            self.suspect = true;
            self.shared.events.force(BusEvent::Suspect);
            tracing::warn!(reason, "bus link is suspect");
        }
    }

    /// Lets nobody count on what is gone: neither who waits for a subscription nor who publishes.
    fn unlink(&self) {
        {
            let mut subscriptions = self.shared.subscriptions();
            self.shared.up.store(false, Relaxed);
            subscriptions.waiting.clear();
        }
        self.publish_routes();
    }

    /// Lets the writers finish what waits, within the time one answer may take.
    async fn stop(mut self) {
        self.nodes.clear();
        self.unlink();
        let _ =
            timeout(RESPONSE_TIMEOUT, async { while self.writers.join_next().await.is_some() {} })
                .await;
    }
}

/// Jittered, so that instances do not all return to a Redis that has just come back at one moment.
fn backoff(attempt: u32) -> Duration {
    let (min, max) = BACKOFF;
    let ceiling = max.min(min * (2 << attempt.min(10)));
    rand::random_range(min..=ceiling)
}
