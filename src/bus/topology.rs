//! Which servers the bus connects to, and which hash slots each of them serves.
//!
//! A single server serves every slot. Of a Cluster, all seeds and all masters known from before are asked
//! at once and the first answer counts; a stale one shows as a failed connect or a `MOVED`, and is asked
//! for again.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, FromRedisValue, RedisError, RedisResult,
    Value,
};

use super::address::Address;
use super::link::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};

/// A server and its slots.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) info: ConnectionInfo,
    pub(super) slots: Vec<RangeInclusive<u16>>,
    /// Sharded pub/sub is spoken on a Cluster, plain pub/sub elsewhere.
    pub(super) sharded: bool,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.info.addr() == other.info.addr() && self.slots == other.slots
    }
}

impl Target {
    pub(super) fn serves(&self, slot: u16) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }
}

/// The servers to be connected to now. `known` are those of last time.
pub(super) async fn targets(address: &Address, known: &[Target]) -> RedisResult<Vec<Target>> {
    match address {
        Address::Single(info) => {
            Ok(vec![Target { info: (**info).clone(), slots: vec![0..=16383], sharded: false }])
        }
        Address::Cluster(seeds) => {
            let known = known.iter().map(|target| &target.info);
            let asked = seeds.iter().chain(known).map(|info| Box::pin(ask(info)));
            Ok(select_ok(asked).await?.0)
        }
    }
}

async fn ask(info: &ConnectionInfo) -> RedisResult<Vec<Target>> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    let client = redis::Client::open(info.clone())?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let shards: Vec<Vec<Value>> =
        redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
    let mut masters = BTreeMap::<(String, u16), Vec<RangeInclusive<u16>>>::new();
    for shard in shards {
        let (slots, endpoint) = master(shard)?;
        masters.entry(endpoint).or_default().push(slots);
    }
    if masters.is_empty() {
        return Err(refused("the Cluster serves no slots"));
    }
    let targets = masters.into_iter().map(|((host, port), slots)| {
        let info = info.clone().set_addr(moved(info.addr(), host, port));
        Target { info, slots, sharded: true }
    });
    Ok(targets.collect())
}

/// One entry of `CLUSTER SLOTS`: first slot, last slot, master (host, port, …), replicas.
fn master(shard: Vec<Value>) -> RedisResult<(RangeInclusive<u16>, (String, u16))> {
    let [first, last, master, ..] =
        <[Value; 3]>::try_from(shard.into_iter().take(3).collect::<Vec<_>>())
            .map_err(|_| refused("an entry of CLUSTER SLOTS is too short"))?;
    let (Value::Array(master), first, last) =
        (master, u16::from_redis_value(first)?, u16::from_redis_value(last)?)
    else {
        return Err(refused("an entry of CLUSTER SLOTS names no master"));
    };
    let mut master = master.into_iter();
    let host = Option::<String>::from_redis_value(master.next().unwrap_or(Value::Nil))?;
    let port = u16::from_redis_value(master.next().unwrap_or(Value::Nil))?;
    Ok((first..=last, (host.unwrap_or_default(), port)))
}

/// The address of another node of the same Cluster; a node that does not know its host is where it answered.
fn moved(from: &ConnectionAddr, host: String, port: u16) -> ConnectionAddr {
    let pick = |known: &str| if host.is_empty() { known.to_owned() } else { host.clone() };
    match from {
        ConnectionAddr::Tcp(known, _) => ConnectionAddr::Tcp(pick(known), port),
        ConnectionAddr::TcpTls { host: known, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls {
                host: pick(known),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

fn refused(why: &'static str) -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, why).into()
}
