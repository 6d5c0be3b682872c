//! One connection of the bus: a server's subscriptions, its probe, and the writer that publishes to it.
//!
//! Owned by the supervisor. Publishing goes over the same connection as the subscriptions, so a probe
//! published to the instance's own channel proves both ways at once. Whatever breaks is told to the
//! supervisor once and by one channel; a broken node is dropped, never repaired.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult,
    Value,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::link::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};
use super::shared::{Publication, Shared};
use super::topology::Target;
use super::{Topic, queue, wire};

/// Bytes that may wait to be published to one server.
const OUTBOX: usize = 8 << 20;
/// Bytes of one pipeline of publishes.
const BATCH: usize = 256 << 10;
/// Topics of one pipeline of subscriptions.
const CHUNK: usize = 1000;

/// What a connection reports to the supervisor.
pub(super) struct Signal {
    pub(super) node: u64,
    pub(super) what: What,
}

pub(super) enum What {
    /// The connection is of no use any more.
    Broken(String),
    /// The server ended a subscription, asked to or not.
    Unsubscribed(Vec<u8>),
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) target: Target,
    pub(super) outbox: queue::Sender<Publication>,
    connection: MultiplexedConnection,
    shared: Arc<Shared>,
    probe_channel: String,
    /// Set by everything received.
    heard: Arc<AtomicBool>,
    probing: bool,
    subscribed: HashSet<Topic>,
    /// Channels unsubscribed by ourselves whose confirmation was not seen yet.
    leaving: HashSet<Vec<u8>>,
}

impl Node {
    /// Connects, subscribes the probe and starts the writer among `writers`.
    pub(super) async fn connect(
        shared: &Arc<Shared>,
        target: Target,
        id: u64,
        signals: mpsc::UnboundedSender<Signal>,
    ) -> RedisResult<(Self, Writer)> {
        let heard = Arc::new(AtomicBool::new(true));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_push_sender(receiver(id, shared.clone(), heard.clone(), signals.clone()));
        let settings = target.info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = redis::Client::open(target.info.clone().set_redis_settings(settings))?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let (outbox, waiting) = queue::queue(OUTBOX);
        let mut node = Self {
            id,
            probe_channel: probe_channel(shared, &target),
            target,
            outbox,
            connection: connection.clone(),
            shared: shared.clone(),
            heard,
            probing: false,
            subscribed: HashSet::new(),
            leaving: HashSet::new(),
        };
        node.command("SUBSCRIBE", "SSUBSCRIBE", &[node.probe_channel.clone()])
            .await?
            .into_iter()
            .try_for_each(|reply| reply.extract_error().map(drop))?;
        let publish = if node.target.sharded { "SPUBLISH" } else { "PUBLISH" };
        let writer = Writer { id, publish, waiting, connection, shared: shared.clone(), signals };
        Ok((node, writer))
    }

    /// Makes the subscriptions of `changed` (topics of this node) what is wanted of them.
    pub(super) async fn apply(&mut self, changed: Vec<(Topic, bool)>) -> RedisResult<()> {
        let (join, leave): (Vec<_>, Vec<_>) = changed
            .into_iter()
            .filter(|(topic, wanted)| self.subscribed.contains(topic) != *wanted)
            .partition(|(_, wanted)| *wanted);
        let mut refusal = None;
        for topics in leave.chunks(CHUNK) {
            let channels = self.channels(topics);
            self.leaving.extend(channels.iter().map(|channel| channel.as_bytes().to_vec()));
            let replies = self.command("UNSUBSCRIBE", "SUNSUBSCRIBE", &channels).await?;
            for ((topic, _), reply) in topics.iter().zip(replies) {
                match reply.extract_error() {
                    Ok(_) => drop(self.subscribed.remove(topic)),
                    Err(error) => refusal = Some(error),
                }
            }
        }
        for topics in join.chunks(CHUNK) {
            let channels = self.channels(topics);
            let replies = self.command("SUBSCRIBE", "SSUBSCRIBE", &channels).await?;
            for ((topic, _), reply) in topics.iter().zip(replies) {
                match reply.extract_error() {
                    Ok(_) => drop(self.subscribed.insert(topic.clone())),
                    Err(error) => refusal = Some(error),
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Whether the server ended `channel` without being asked to.
    pub(super) fn lost(&mut self, channel: &[u8]) -> bool {
        !self.leaving.remove(channel)
    }

    /// Looks whether anything was received since the last look; if not, asks for a sign of life.
    /// `false` if that was asked for already.
    pub(super) fn is_alive(&mut self) -> bool {
        if self.heard.swap(false, Relaxed) {
            self.probing = false;
            return true;
        }
        if self.probing {
            return false;
        }
        self.probing = true;
        self.outbox.force(Publication {
            channel: self.probe_channel.clone(),
            message: wire::seal(self.shared.instance, 0, &[]),
        })
    }

    fn channels(&self, topics: &[(Topic, bool)]) -> Vec<String> {
        topics.iter().map(|(topic, _)| topic.channel(&self.shared.prefix)).collect()
    }

    /// One command per channel in one pipeline: sharded commands with several channels would need
    /// them in one slot. The replies are in the channels' order; a refusal of one is among them.
    async fn command(
        &mut self,
        plain: &str,
        sharded: &str,
        channels: &[String],
    ) -> RedisResult<Vec<Value>> {
        let verb = if self.target.sharded { sharded } else { plain };
        let mut pipeline = Pipeline::with_capacity(channels.len());
        for channel in channels {
            pipeline.cmd(verb).arg(channel);
        }
        self.connection.req_packed_commands(&pipeline, 0, channels.len()).await
    }
}

/// This instance's own channel on a server: on a Cluster, one whose slot that server serves.
fn probe_channel(shared: &Shared, target: &Target) -> String {
    (0_u32..)
        .map(|n| format!("{}:i:{}-{n}", shared.prefix, shared.instance))
        .find(|channel| target.serves(wire::slot(channel)))
        .expect("a target serves a slot, and every slot is hit sooner or later")
}

/// What the connection does with what the server sends of itself. It must not block.
fn receiver(
    node: u64,
    shared: Arc<Shared>,
    heard: Arc<AtomicBool>,
    signals: mpsc::UnboundedSender<Signal>,
) -> impl Fn(PushInfo) -> Result<(), mpsc::error::SendError<Signal>> + Send + Sync + 'static {
    move |PushInfo { kind, data }| {
        let mut data = data.into_iter();
        let what = match (kind, data.next(), data.next()) {
            (
                PushKind::Message | PushKind::SMessage,
                Some(Value::BulkString(channel)),
                Some(Value::BulkString(message)),
            ) => {
                heard.store(true, Relaxed);
                shared.deliver(&channel, message);
                return Ok(());
            }
            (
                PushKind::Unsubscribe | PushKind::SUnsubscribe,
                Some(Value::BulkString(channel)),
                _,
            ) => What::Unsubscribed(channel),
            (PushKind::Disconnection, ..) => What::Broken("disconnected".to_owned()),
            _ => return Ok(()),
        };
        signals.send(Signal { node, what })
    }
}

/// Publishes what waits for one server, all of it in one pipeline at a time. Ends with its node.
pub(super) struct Writer {
    id: u64,
    publish: &'static str,
    waiting: queue::Receiver<Publication>,
    connection: MultiplexedConnection,
    shared: Arc<Shared>,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Writer {
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>) {
        tasks.spawn(self.run());
    }

    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            if let Err(error) = self.publish(first).await {
                let what = What::Broken(error.to_string());
                // Fails only when the supervisor is gone, and then nobody needs to know.
                let _ = self.signals.send(Signal { node: self.id, what });
                break;
            }
        }
        self.waiting.close();
        while self.waiting.try_recv().is_some() {
            self.shared.dropped(1);
        }
    }

    async fn publish(&mut self, first: Publication) -> Result<(), RedisError> {
        let mut pipeline = Pipeline::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Publication { channel, message }) = next {
            bytes += message.len();
            pipeline.cmd(self.publish).arg(channel).arg(message);
            next = if bytes < BATCH { self.waiting.try_recv() } else { None };
        }
        let count = pipeline.len();
        let replies = match self.connection.req_packed_commands(&pipeline, 0, count).await {
            Ok(replies) => replies,
            Err(error) => {
                self.shared.dropped(count as u64);
                return Err(error);
            }
        };
        let mut refusal = Ok(());
        for reply in replies {
            match reply.extract_error() {
                Ok(_) => drop(self.shared.counters.published.fetch_add(1, Relaxed)),
                Err(error) => {
                    self.shared.dropped(1);
                    refusal = Err(error);
                }
            }
        }
        refusal
    }
}
