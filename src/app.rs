//! The composition root: the only place that names concrete stores, buses and providers.
//!
//! [`start`] builds a hub from a configuration and runs it; tests start several in one process, on port
//! 0. [`serve`] is the same for a process: until a signal, then the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::auth::{Access, Authenticator, Disconnect, RevocationEntry, Roles};
use crate::bus::{Bus, RedisLink};
use crate::config::Config;
use crate::fanout::{Fanout, Feeds, Relay, ShardHandle, ShardQueue, Tally, ToShard};
use crate::hub::{Hub, Memory};
use crate::id::InstanceId;
use crate::ingest::Ingest;
use crate::ingest::pubsub::Listener;
use crate::ingest::stream::Reader;
use crate::net::{api, operator, server};
use crate::presence::{News, Presence};
use crate::push::decide::Policy;
use crate::push::{self, Acks, Live};
use crate::quota::Quota;
use crate::session::shard::Shard;
use crate::shutdown::{self, Shutdown, TaskName};
use crate::store::Store;
use crate::sync::backlog;
use crate::sync::checksums::Checksums;
use crate::sync::delta::Deltas;
use crate::sync::engine::Engine;
use crate::sync::follow::Follower;
use crate::sync::journal::Journal;
use crate::sync::members::Members;
use crate::sync::notify::Notices;
use crate::sync::pages::Pages;
use crate::sync::retention::{Counts, Retention};
use crate::sync::rules::Rules;
use crate::telemetry::Metrics;
use crate::templates::Templates;

/// How often it is looked whether all clients are gone.
const DRAIN_CHECK: Duration = Duration::from_millis(20);

/// A hub that runs.
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators look.
    pub admin_address: SocketAddr,
    /// Its parts.
    pub hub: Arc<Hub>,
    shutdown: Shutdown,
}

/// Runs the hub until it is told to stop; `ready` is called once it serves.
///
/// # Errors
/// The hub cannot start.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(&Running) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let running = start(config).await?;
    tracing::info!(address = %running.address, admin = %running.admin_address,
        instance = %running.hub.instance, "the hub is ready");
    ready(&running)?;
    let signal = shutdown::signal().await.context("cannot listen to signals")?;
    tracing::info!(signal, "draining");
    let unfinished = running.stop().await;
    if unfinished.is_empty() {
        tracing::info!("stopped");
    } else {
        tracing::warn!(?unfinished, "stopped; these did not finish in time");
    }
    Ok(())
}

/// Brings the store's schema up to date and returns.
///
/// # Errors
/// The store cannot be reached, or a migration failed.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let store = Store::open(&config.store).await?;
    store.migrate().await?;
    store.close().await;
    tracing::info!("the schema is current");
    Ok(())
}

/// Purges what is past its time, or with `dry_run` only counts it. None if another instance is at it.
///
/// # Errors
/// The store cannot be reached, or failed half-way: what was purged until then stays purged.
pub async fn retention(mut config: Config, dry_run: bool) -> anyhow::Result<Option<Counts>> {
    config.store.migrate = false; // that is not what was asked for
    let store = open_store(&config).await?;
    let owner = format!("the command line, process {}", std::process::id());
    let (policy, pushes) = (config.retention, config.push.keep);
    let retention = Retention::new(store.clone(), owner, policy, pushes, Metrics::new());
    let counts = if dry_run {
        Some(retention.look().await?)
    } else {
        let (stop, signal) = (CancellationToken::new(), shutdown::signal());
        let interrupted = stop.clone();
        let listening = tokio::spawn(async move {
            if signal.await.is_ok() {
                interrupted.cancel();
            }
        });
        let counts = retention.purge(&stop).await;
        listening.abort();
        counts?
    };
    store.close().await;
    Ok(counts)
}

/// Builds a hub and runs it on this runtime and on a thread per shard.
///
/// # Errors
/// The configuration, the store or an address is not usable.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    let problems = |problems: Vec<String>| anyhow::anyhow!(problems.join("\n"));
    let auth = Arc::new(Authenticator::new(&config.auth).map_err(problems)?);
    let roles = Roles::compile(&config.roles).map_err(problems)?;
    let access = Arc::new(Access::new(roles, config.auth.memberships));
    let store = open_store(&config).await?;
    let store_ms = store.now_ms().await?;
    let store_heard = Instant::now();
    store.purge_revocations(store_ms / 1000).await?;
    for row in store.revocations(store_ms / 1000).await? {
        if Disconnect::read(&row).is_some() {
            continue; // nobody is here yet
        }
        match RevocationEntry::read(&row) {
            Ok(entry) => {
                auth.revocations().add(entry);
            }
            Err(error) => tracing::warn!(%error, "skipped a stored revocation of an unknown form"),
        }
    }
    let listener = server::bind(config.server.listen, config.server.accept_backlog)
        .with_context(|| format!("server.listen: cannot listen on {}", config.server.listen))?;
    let operators = TcpListener::bind(config.server.admin_listen).await.with_context(|| {
        format!("server.admin_listen: cannot listen on {}", config.server.admin_listen)
    })?;
    let (address, admin_address) = (listener.local_addr()?, operators.local_addr()?);

    let templates = Templates::load(&config.push.templates, &config.push.locales);
    let templates = Arc::new(templates.map_err(problems)?);
    let providers = push::providers(&config.push)?;
    let push = push::policy(&store, &config.push, templates, providers, access.clone()).await?;
    let push = Arc::new(push);
    let shutdown = Shutdown::new();
    let (hub, queues) = assemble(config, auth, access, (store, push), &shutdown)?;
    hub.relay.disconnects.set_clock(store_ms, store_heard);
    hub.members.reload().await.context("cannot read the memberships")?;
    shutdown.spawn("operators", {
        let stop = shutdown.stopping().clone();
        let router = operator::router(hub.clone());
        async move {
            let served =
                axum::serve(operators, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the operators' listener failed");
            }
        }
    });
    for (index, queue) in queues.into_iter().enumerate() {
        spawn_shard(index, hub.clone(), queue, listener.try_clone()?, &shutdown)?;
    }
    Ok(Running { address, admin_address, hub, shutdown })
}

/// The store, with its schema as this program expects it.
pub(crate) async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let store = Store::open(&config.store).await.context("store.url")?;
    if config.store.migrate {
        store.migrate().await.context("cannot bring the store's schema up to date")?;
    } else if !store.schema_is_current().await? {
        anyhow::bail!("the store's schema is not current: run `syncline migrate` first");
    }
    Ok(store)
}

/// The log of requests, and its task, if it is on.
fn open_journal(
    config: &Config,
    store: &Store,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
) -> Journal {
    if !config.store.sync_log {
        return Journal::off(metrics.clone());
    }
    let (journal, writer) = Journal::new(metrics.clone());
    shutdown.spawn("sync log", writer.run(store.clone(), shutdown.stopping().clone()));
    journal
}

type Queues = Vec<ShardQueue>;

/// Ties the parts together and spawns all that is not a connection.
fn assemble(
    config: Config,
    auth: Arc<Authenticator>,
    access: Arc<Access>,
    (store, push): (Store, Arc<Policy>),
    shutdown: &Shutdown,
) -> anyhow::Result<(Arc<Hub>, Queues)> {
    let metrics = Metrics::new();
    let instance = InstanceId(Uuid::new_v4());
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let count = if config.server.shards == 0 { cpus } else { config.server.shards };
    let (handles, queues): (Vec<_>, Vec<_>) = (0..count).map(|_| ShardHandle::channel()).unzip();
    let handles: Arc<[ShardHandle]> = handles.into();

    let (bus, events) = Bus::open(&config.bus, instance)?;
    let (news_sender, mut news) = mpsc::unbounded_channel();
    let (presence, quota, link) = if config.bus.url == "local" {
        (Presence::local(&config.presence, news_sender), Quota::local(&config.limits), None)
    } else {
        let link = RedisLink::connect(&config.bus)?;
        let prefix = &config.bus.prefix;
        let presence =
            Presence::redis(&config.presence, prefix, link.clone(), instance, news_sender);
        (presence, Quota::redis(&config.limits, prefix, link.clone()), Some(link))
    };
    let (feeds, created) = Feeds::new(handles.clone(), config.limits.recent_bytes);
    let fanout = Fanout::new(handles);
    let (relay, doubtful) = Relay::new(
        feeds,
        fanout,
        bus.clone(),
        (auth.clone(), access.clone()),
        presence.clone(),
        metrics.clone(),
    );
    let relay = Arc::new(relay);
    let members = Members::new(store.clone(), relay.clone(), access.clone());
    let journal = open_journal(&config, &store, &metrics, shutdown);
    let notices = Notices::new(&config.push, access.roles(), push.templates.clone());
    let rules = Rules::new(&config, notices);
    let engine =
        Engine::new(store.clone(), relay.clone(), metrics.clone(), journal, &config, rules);
    let listens = link.is_some() && config.ingest.enabled;
    let parts = (engine.clone(), members.clone(), relay.clone());
    let ingest = Ingest::new(&config, parts, metrics.clone(), link);
    let hub = Arc::new(Hub {
        instance,
        limits: Hub::limits_json(&config),
        access,
        members,
        engine,
        ingest: ingest.clone(),
        pages: Pages::new(store.clone(), &config.limits),
        guests: Tally::default(),
        deltas: Deltas::new(store.clone(), &config.store),
        checksums: Checksums::new(store.clone(), metrics.clone(), Handle::current()),
        presence: presence.clone(),
        quota: quota.clone(),
        acks: Acks::default(),
        live: Live::default(),
        push,
        memory: Memory::new(config.limits.memory_bytes),
        runtime: Handle::current(),
        draining: shutdown.draining().clone(),
        last_conn: AtomicU64::new(0),
        config,
        metrics,
        auth,
        store,
        relay,
    });

    let stop = shutdown.stopping();
    let follower = Follower::new(&hub);
    shutdown.spawn("follower", follower.run(created, doubtful, events, stop.clone()));
    shutdown.spawn("bus", bus.run(stop.clone()));
    shutdown.spawn("presence", presence.run(stop.clone()));
    shutdown.spawn("quota", quota.run(stop.clone()));
    shutdown.spawn("authenticator", hub.auth.clone().run(stop.clone()));
    let (acks, store, metrics) = (hub.acks.clone(), hub.store.clone(), hub.metrics.clone());
    shutdown.spawn("acknowledgements", acks.run(store, metrics, stop.clone()));
    let (store, metrics) = (hub.store.clone(), hub.metrics.clone());
    let (policy, pushes) = (hub.config.retention.clone(), hub.config.push.keep);
    let retention = Retention::new(store, instance.to_string(), policy, pushes, metrics);
    shutdown.spawn("retention", retention.run(stop.clone()));
    let (store, metrics) = (hub.store.clone(), hub.metrics.clone());
    shutdown.spawn("backlog", backlog::run(store, metrics, stop.clone()));
    let (live, relay) = (hub.live.clone(), hub.relay.clone());
    let (store, metrics) = (hub.store.clone(), hub.metrics.clone());
    shutdown.spawn("who is here", live.run(instance, store, relay, metrics, stop.clone()));
    push::spawn(&hub, shutdown);
    if listens {
        let (config, metrics) = (&hub.config, hub.metrics.clone());
        let reader = Reader::new(config, instance, ingest.clone(), metrics)?;
        shutdown.spawn("ingest stream", reader.run(stop.clone()));
        shutdown.spawn("ingest channel", Listener::new(config, ingest).run(stop.clone()));
    }
    shutdown.spawn("presence news", {
        let (hub, stop) = (hub.clone(), stop.clone());
        async move {
            while let Some(Some(news)) = stop.run_until_cancelled(news.recv()).await {
                match news {
                    News::Delta(delta) => {
                        let announced = delta.joined.len() + delta.left.len() + delta.updated.len();
                        hub.metrics.presence_announcements.inc_by(announced as u64);
                        hub.relay.presence(delta);
                    }
                    News::Whole(room, list) => hub.relay.presence_whole_here(&room, &list),
                }
            }
        }
    });
    shutdown.spawn("memory", {
        let (hub, stop) = (hub.clone(), stop.clone());
        async move {
            let mut look = interval(Duration::from_secs(1));
            while stop.run_until_cancelled(look.tick()).await.is_some() {
                hub.memory.look();
            }
        }
    });
    Ok((hub, queues))
}

/// Runs a shard on a thread of its own.
fn spawn_shard(
    index: usize,
    hub: Arc<Hub>,
    queue: ShardQueue,
    listener: std::net::TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let stop = shutdown.stopping().clone();
    let (tracked, ended) = tokio::sync::oneshot::channel::<()>();
    shutdown.spawn(format!("shard {index}"), async move {
        let _sender_dropped = ended.await;
    });
    thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
        let _until_the_thread_ends = tracked;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("a thread can have a runtime");
        runtime.block_on(async move {
            let api = api::router(hub.clone());
            let shard = Shard::new(index, hub);
            let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
            let accepting = tokio::task::spawn_local(server::serve(shard.clone(), listener, api));
            stop.run_until_cancelled(shard.run(queue)).await;
            accepting.abort();
        });
    })?;
    Ok(())
}

impl Running {
    /// Sends the clients away, finishes what is under way, and names what did not finish in time.
    pub async fn stop(self) -> Vec<TaskName> {
        let deadline = Instant::now() + self.hub.config.server.drain_deadline;
        self.shutdown.drain();
        self.hub.relay.fanout.to_all(&ToShard::Drain);
        while self.hub.relay.fanout.connections() > 0 && Instant::now() < deadline {
            sleep(DRAIN_CHECK).await;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let unfinished = self.shutdown.finish(left).await;
        self.hub.store.close().await;
        unfinished
    }
}
