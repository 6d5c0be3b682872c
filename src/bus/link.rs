//! The command connection: what presence, rate limits and ingest send their Redis commands over.
//!
//! One cheap clone for a single server or a Cluster. It connects on first use and again after a loss, so
//! the hub starts and runs without Redis. A timeout counts as a loss: a half-dead TCP connection answers
//! nothing and never closes. While Redis cannot be reached, one caller at a time tries; the others and
//! everyone during the pause that follows fail at once, so a dead Redis costs little.
//!
//! A blocking command (`XREADGROUP … BLOCK`) needs a link of its own ([`RedisLink::blocking`]): it holds up
//! what is sent after it.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSubSink, PubSubStream};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::BusError;
use super::address::{Address, tcp_settings};
use crate::config;

/// How long a connect may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer may take.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long commands fail at once after a failed connect.
const PAUSE: Duration = Duration::from_millis(250);

/// `{prefix}:{tag}:suffix`, the tag in literal braces: on a Cluster all keys with one tag (a project's, a
/// user's) share a slot, so that a script or a pipeline may touch them together.
#[must_use]
pub fn key(prefix: &str, tag: &str, suffix: &str) -> String {
    format!("{prefix}:{{{tag}}}:{suffix}")
}

/// A command connection to Redis, single or Cluster. Commands, pipelines and scripts run on it as on any
/// [`ConnectionLike`]; on a Cluster, the keys of one pipeline or script must share a slot (see [`key`]).
#[derive(Clone)]
pub struct RedisLink {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    slot: Mutex<Slot>,
}

enum Connector {
    /// And how long an answer may take.
    Single(redis::Client, Duration),
    Cluster(ClusterClient),
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    /// Counts connections, so that a late failure does not take down its successor.
    generation: u64,
    /// The last failed connect: not tried again before the instant.
    failed: Option<(Instant, RedisError)>,
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for RedisLink {
    /// Not the address: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLink").finish_non_exhaustive()
    }
}

impl RedisLink {
    /// A link to the Redis of `[bus] url`. Nothing is connected before the first command.
    ///
    /// # Errors
    /// [`BusError::NotRedis`] for `local`, [`BusError::InvalidUrl`] for what is no Redis address.
    pub fn connect(config: &config::Bus) -> Result<Self, BusError> {
        Self::blocking(config, Duration::ZERO)
    }

    /// A link for commands that block the server's side of it for up to `block`.
    ///
    /// # Errors
    /// As [`RedisLink::connect`].
    pub fn blocking(config: &config::Bus, block: Duration) -> Result<Self, BusError> {
        let patience = RESPONSE_TIMEOUT + block;
        let connector = match Address::parse(&config.url)?.ok_or(BusError::NotRedis)? {
            Address::Single(info) => Connector::Single(redis::Client::open(*info)?, patience),
            Address::Cluster(seeds) => {
                let client = ClusterClient::builder(seeds)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(patience)
                    .tcp_settings(tcp_settings())
                    .retries(2)
                    .max_retry_wait(100)
                    .min_retry_wait(20)
                    .build()?;
                Connector::Cluster(client)
            }
        };
        Ok(Self { shared: Arc::new(Shared { connector, slot: Mutex::default() }) })
    }

    /// The current connection and its generation, connecting if there is none.
    async fn checkout(&self) -> RedisResult<(Connection, u64)> {
        let mut slot = self.shared.slot.lock().await;
        if let Some(connection) = &slot.connection {
            return Ok((connection.clone(), slot.generation));
        }
        if let Some((until, error)) = &slot.failed
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        match self.shared.connector.connect().await {
            Ok(connection) => {
                slot.generation += 1;
                slot.failed = None;
                slot.connection = Some(connection.clone());
                Ok((connection, slot.generation))
            }
            Err(error) => {
                slot.failed = Some((Instant::now() + PAUSE, error.clone()));
                Err(error)
            }
        }
    }

    /// Drops the connection if `result` says that it is not worth keeping.
    async fn check<T>(&self, generation: u64, result: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &result
            && (error.is_io_error() || error.is_unrecoverable_error())
        {
            let mut slot = self.shared.slot.lock().await;
            if slot.generation == generation {
                slot.connection = None;
            }
        }
        result
    }
}

impl Connector {
    async fn connect(&self) -> RedisResult<Connection> {
        match self {
            Self::Single(client, patience) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(*patience));
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                Ok(Connection::Single(connection.await?))
            }
            Self::Cluster(client) => {
                let connection = client.get_async_connection();
                // The client tries seed after seed; all of them together get a little more time.
                match timeout(CONNECT_TIMEOUT * 2, connection).await {
                    Ok(connection) => Ok(Connection::Cluster(connection?)),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            }
        }
    }
}

impl ConnectionLike for RedisLink {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (connection, generation) = self.checkout().await?;
            let result = match connection {
                Connection::Single(mut single) => single.req_packed_command(cmd).await,
                Connection::Cluster(mut cluster) => cluster.req_packed_command(cmd).await,
            };
            self.check(generation, result).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (connection, generation) = self.checkout().await?;
            let result = match connection {
                Connection::Single(mut single) => {
                    single.req_packed_commands(pipeline, offset, count).await
                }
                Connection::Cluster(mut cluster) => {
                    cluster.req_packed_commands(pipeline, offset, count).await
                }
            };
            self.check(generation, result).await
        })
    }

    fn get_db(&self) -> i64 {
        match &self.shared.connector {
            Connector::Single(client, _) => client.get_connection_info().redis_settings().db(),
            Connector::Cluster(_) => 0,
        }
    }
}

/// Subscribes a channel on a connection of its own. On a Cluster any server will do: what is published
/// without `S` is heard on all of them.
pub(crate) async fn listen(
    config: &config::Bus,
    channel: &str,
) -> Result<(PubSubSink, PubSubStream), BusError> {
    let servers = match Address::parse(&config.url)?.ok_or(BusError::NotRedis)? {
        Address::Single(info) => vec![*info],
        Address::Cluster(seeds) => seeds,
    };
    let mut last = BusError::LinkDown;
    for server in servers {
        let client = redis::Client::open(server)?;
        let subscribing = async {
            let (mut sink, messages) = client.get_async_pubsub().await?.split();
            sink.subscribe(channel).await?;
            Ok::<_, RedisError>((sink, messages))
        };
        match timeout(CONNECT_TIMEOUT, subscribing).await {
            Ok(Ok(subscribed)) => return Ok(subscribed),
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = BusError::LinkDown,
        }
    }
    Err(last)
}
