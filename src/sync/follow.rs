//! Keeps this instance's feeds true to the store, whatever the bus delivers or loses.
//!
//! One task: it opens new feeds, fills gaps, asks the store for the heads of active projects, for
//! revocations, ended sessions and memberships (often while the bus is suspect, seldom otherwise: the loss of a *last* message has no
//! successor to reveal it), and retires feeds nobody reads. It never waits for the store itself: the bus
//! has to be heard meanwhile.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::auth::{Disconnect, RevocationEntry};
use crate::bus::{BusEvent, Events, Topic};
use crate::clock;
use crate::config;
use crate::fanout::feed::{Offered, Stage};
use crate::fanout::{EncodedChange, Feed, Relay};
use crate::hub::Hub;
use crate::id::{ProjectId, Seq, UserId};
use crate::presence::Presence;
use crate::store::{RevocationRow, Store, StoreError};
use crate::sync::members::Members;
use crate::sync::retold;
use crate::telemetry::{Dropped, Metrics};

/// How long a feed nobody reads is kept: long enough for a storm of reconnects to find it warm.
const IDLE: Duration = Duration::from_secs(30);
/// How often full shard queues are tried again and idle feeds looked for.
const TICK: Duration = Duration::from_millis(200);
/// How long to wait after the store failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How long before a link was found broken it may have been so, by any instance's clock.
const UNNOTICED_MS: i64 = 60_000;
/// All revocations are read anew at each poll; many take long, and then at most this part of the time.
const REVOCATIONS_SHARE: u32 = 50;

/// What the follower needs.
#[derive(Clone)]
pub struct Follower {
    store: Store,
    relay: Arc<Relay>,
    members: Members,
    /// Told when Redis may have forgotten.
    presence: Presence,
    metrics: Arc<Metrics>,
    bus: config::Bus,
    limits: config::Limits,
    /// Before this, revocations are not read again.
    revocations_at: Arc<Mutex<Instant>>,
}

impl Follower {
    /// The follower of a hub.
    #[must_use]
    pub fn new(hub: &Hub) -> Self {
        Self {
            store: hub.store.clone(),
            relay: hub.relay.clone(),
            members: hub.members.clone(),
            presence: hub.presence.clone(),
            metrics: hub.metrics.clone(),
            bus: hub.config.bus.clone(),
            limits: hub.config.limits.clone(),
            revocations_at: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Runs until told to stop.
    pub async fn run(
        self,
        mut created: mpsc::UnboundedReceiver<Arc<Feed>>,
        mut doubtful: mpsc::UnboundedReceiver<Arc<Feed>>,
        mut events: Events,
        stop: CancellationToken,
    ) {
        let control = self.relay.clone();
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            if let Err(error) = control.bus.subscribe(Topic::Control).await {
                tracing::debug!(%error, "the control channel is subscribed once the bus is back");
            }
        });
        let mut opening = JoinSet::new();
        let mut filling: HashSet<ProjectId> = HashSet::new();
        let mut fills = JoinSet::new();
        let mut polls = JoinSet::new();
        let mut suspect = !self.relay.bus.link_up();
        self.metrics.bus_link_up.set(i64::from(!suspect));
        // What users were to be told since then, they may not have been.
        let mut untold_since = suspect.then(clock::now_ms);
        let mut retelling = JoinSet::new();
        let mut poll_at = Instant::now() + self.poll_interval(suspect);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(feed) = created.recv() => {
                    opening.spawn(self.clone().open(feed));
                }
                Some(_) = opening.join_next() => {}
                Some(feed) = doubtful.recv() => {
                    if filling.insert(feed.project().clone()) {
                        // What fills a gap may be on its way; without one there is nothing to wait for.
                        let hold = if feed.has_gap() { self.bus.gap_hold } else { Duration::ZERO };
                        fills.spawn(self.clone().fill_later(feed, hold));
                    }
                }
                Some(done) = fills.join_next() => {
                    if let Ok(project) = done {
                        filling.remove(&project);
                        // A change may have come too late for the fill and too early for the next one.
                        if let Some(feed) = self.relay.feeds.get(&project).filter(|f| f.has_gap()) {
                            filling.insert(project);
                            fills.spawn(self.clone().fill_later(feed, STORE_PAUSE));
                        }
                    }
                }
                event = events.recv() => match event {
                    Some(BusEvent::Message { topic, payload, sent_at_ms }) => {
                        self.observe_lag(sent_at_ms);
                        self.relay.receive(topic, payload);
                    }
                    Some(BusEvent::Suspect) => {
                        suspect = true;
                        untold_since.get_or_insert_with(|| clock::now_ms() - UNNOTICED_MS);
                        self.metrics.bus_link_up.set(0);
                        poll_at = Instant::now();
                    }
                    Some(BusEvent::Healed) => {
                        suspect = false;
                        self.metrics.bus_link_up.set(1);
                        self.metrics.heals.inc();
                        self.presence.resync();
                        if let Some(since) = untold_since.take() {
                            retelling.spawn(self.clone().retell(since));
                        }
                        poll_at = Instant::now();
                    }
                    None => return,
                },
                () = sleep_until(poll_at), if polls.is_empty() => {
                    polls.spawn(self.clone().poll());
                    poll_at = Instant::now() + self.poll_interval(suspect);
                }
                Some(_) = polls.join_next() => {}
                Some(_) = retelling.join_next() => {}
                _ = tick.tick() => self.tidy(),
            }
        }
    }

    fn poll_interval(&self, suspect: bool) -> Duration {
        if suspect { self.bus.head_poll_suspect } else { self.bus.head_poll }
    }

    fn observe_lag(&self, sent_at_ms: u64) {
        let now = u64::try_from(clock::now_ms()).unwrap_or(0);
        self.metrics.bus_lag_seconds.observe(now.saturating_sub(sent_at_ms) as f64 / 1000.0);
    }

    /// Attaches a new feed to the bus, then finds its place in the log: in this order, so that no change
    /// falls between.
    async fn open(self, feed: Arc<Feed>) {
        if let Err(error) = self.relay.bus.subscribe(Topic::Project(feed.project().clone())).await {
            tracing::debug!(project = %feed.project(), %error, "opened a feed without the bus");
        }
        feed.attached();
        loop {
            match self.store.open_project(feed.project()).await {
                Ok(head) => return feed.open(head.epoch, head.head),
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(project = %feed.project(), %error, "cannot open a project's log yet");
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Waits for overtaken commits of other instances, then reads what is still missing.
    async fn fill_later(self, feed: Arc<Feed>, hold: Duration) -> ProjectId {
        sleep(hold).await;
        if let Err(error) = self.fill(&feed).await {
            self.metrics.store_errors.inc();
            tracing::warn!(project = %feed.project(), %error, "cannot fill a gap yet");
            sleep(STORE_PAUSE).await;
        }
        feed.project().clone()
    }

    /// Reads the log from where the feed is to its end. Whatever lost the changes may have lost what users were
    /// to be notified of with them: that is told again, and clients show each `nid` once.
    async fn fill(&self, feed: &Feed) -> Result<(), StoreError> {
        loop {
            let Some((epoch, at)) = feed.head() else { return Ok(()) };
            let page = self
                .store
                .page(feed.project(), at, self.limits.page_changes, self.limits.recent_bytes as u64)
                .await?;
            if page.epoch != epoch || page.floor > at {
                tracing::warn!(project = %feed.project(), "the log was replaced or cut; readers resync");
                feed.restart(page.epoch, page.head);
                return Ok(());
            }
            if page.entries.is_empty() {
                return Ok(());
            }
            self.metrics.gap_fills.inc();
            let last = page.entries.last().map(|entry| entry.seq);
            // Read before anybody can acknowledge the changes, which disarms what is looked for.
            let seqs: Vec<Seq> = page.entries.iter().map(|entry| entry.seq).collect();
            let untold = retold::notifications(&self.store, feed.project(), &seqs).await;
            let encode = |entry| Arc::new(EncodedChange::new(feed.project(), entry));
            let offered = feed.offer(epoch, page.entries.iter().map(encode));
            for (about, notification) in &untold {
                self.relay.notification_here(about, notification);
            }
            if last == Some(page.head) && offered == Offered::InOrder {
                return Ok(());
            }
        }
    }

    /// Tells users what a broken link may have kept from them, once the store says what that is.
    async fn retell(self, since_ms: i64) {
        while let Err(error) = retold::since(&self.store, &self.relay, since_ms).await {
            self.metrics.store_errors.inc();
            tracing::warn!(%error, "cannot tell again yet what a broken link may have lost");
            sleep(STORE_PAUSE).await;
        }
    }

    /// Asks the store for what the bus may have lost.
    async fn poll(self) {
        self.reload_revocations().await;
        self.reload_memberships().await;
        self.compare_heads().await;
    }

    /// Enforces the revocations of other instances that were not heard of.
    async fn reload_revocations(&self) {
        let began = Instant::now();
        if began < *self.revocations_at.lock().await {
            return;
        }
        match self.revocations().await {
            Ok((now, rows)) => {
                let missed = rows.iter().filter(|row| self.enforce(row)).count();
                if missed > 0 {
                    tracing::info!(missed, "revocations were missed on the bus; now in force");
                }
                self.relay.disconnects.purge(now);
            }
            Err(error) => {
                self.metrics.store_errors.inc();
                tracing::warn!(%error, "cannot read revocations");
            }
        }
        *self.revocations_at.lock().await = Instant::now() + began.elapsed() * REVOCATIONS_SHARE;
    }

    /// Puts in force what other instances were told of members and this one was not.
    async fn reload_memberships(&self) {
        match self.members.reload().await {
            Ok(0) => {}
            Ok(missed) => {
                tracing::info!(missed, "memberships were missed on the bus; now in force");
            }
            Err(error) => {
                self.metrics.store_errors.inc();
                tracing::warn!(%error, "cannot read memberships");
            }
        }
    }

    /// What is in force by the store's clock, and what that says: an instance whose own is wrong misses nothing.
    async fn revocations(&self) -> Result<(i64, Vec<RevocationRow>), StoreError> {
        let now = self.store.now_ms().await?;
        self.relay.disconnects.set_clock(now, Instant::now());
        let rows = self.store.revocations(now / 1000).await?;
        Ok((now, rows))
    }

    /// Whether the revocation was news.
    fn enforce(&self, row: &RevocationRow) -> bool {
        if let Some(disconnect) = Disconnect::read(row) {
            return self.relay.disconnect_here(&disconnect);
        }
        match RevocationEntry::read(row) {
            Ok(entry) => self.relay.revoked_here(entry),
            Err(error) => {
                tracing::warn!(%error, "skipped a stored revocation of an unknown form");
                false
            }
        }
    }

    /// One query for all projects with readers here: who is behind?
    async fn compare_heads(&self) {
        let feeds: Vec<_> =
            self.relay.feeds.all().into_iter().filter(|f| f.stage() == Stage::Open).collect();
        let projects: Vec<_> = feeds.iter().map(|feed| feed.project().clone()).collect();
        if projects.is_empty() {
            return;
        }
        let heads = match self.store.heads(&projects).await {
            Ok(heads) => heads,
            Err(error) => {
                self.metrics.store_errors.inc();
                tracing::warn!(%error, "cannot compare heads with the store");
                return;
            }
        };
        for (project, epoch, head) in heads {
            let Some(feed) = self.relay.feeds.get(&project) else { continue };
            if feed.head().is_some_and(|(e, at)| e != epoch || at < head)
                && let Err(error) = self.fill(&feed).await
            {
                self.metrics.store_errors.inc();
                tracing::warn!(%project, %error, "cannot heal a feed yet");
            }
        }
    }

    fn tidy(&self) {
        let stats = self.relay.bus.stats();
        let since = |counter: &Counter, now: u64| counter.inc_by(now.saturating_sub(counter.get()));
        since(&self.metrics.bus_published, stats.published);
        since(&self.metrics.bus_received, stats.received);
        since(self.metrics.drops.of(Dropped::BusQueue), stats.dropped);
        for feed in self.relay.feeds.all() {
            feed.flush();
        }
        if let Some(before) = Instant::now().checked_sub(IDLE) {
            for project in self.relay.feeds.retire(before) {
                self.relay.bus.unsubscribe(Topic::Project(project));
            }
        }
    }
}

/// Subscribes a user's inbox on the bus while they have a connection here.
pub fn follow_user(relay: &Arc<Relay>, user: UserId, runtime: &tokio::runtime::Handle) {
    let relay = relay.clone();
    runtime.spawn(async move {
        // Another shard may see the user come or go while this runs: what is true at the end counts.
        loop {
            if let Err(error) = relay.bus.subscribe(Topic::User(user.clone())).await {
                tracing::debug!(%error, "a user's inbox is subscribed once the bus is back");
            }
            if relay.fanout.is_connected(&user) {
                return;
            }
            relay.bus.unsubscribe(Topic::User(user.clone()));
            if !relay.fanout.is_connected(&user) {
                return;
            }
        }
    });
}

/// Unsubscribes a user's inbox when their last connection here is gone.
pub fn unfollow_user(relay: &Arc<Relay>, user: &UserId, runtime: &tokio::runtime::Handle) {
    relay.bus.unsubscribe(Topic::User(user.clone()));
    // They may have come back on another shard, whose subscription this ended.
    if relay.fanout.is_connected(user) {
        follow_user(relay, user.clone(), runtime);
    }
}
