//! `connect`: what one connection costs until it is in its room.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::join::{Crowd, join};
use crate::meter::{Fields, Meter, fields};
use crate::pool::Pool;
use crate::target::{Common, bench_room, room};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Connections on their way at once.
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Rooms they are spread over, one each.
    #[arg(long, default_value_t = 100)]
    rooms: usize,
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    let openings = (0..o.connections)
        .map(|i| o.common.opening(&o.common.url, i, &room(&bench_room(i % o.rooms))))
        .collect::<Result<Vec<_>>>()?;
    let crowd = Crowd {
        address: o.common.url.address,
        first: 0,
        openings: &openings,
        concurrency: o.concurrency,
        receive_buffer: None,
        patience: o.common.patience(),
    };
    let meter = Meter::start(&o.common.pid)?;
    let joined = join(&mut pool, &crowd, |_, _, _| {})?;
    let usage = meter.stop()?;
    let mut line = fields(json!({
        "connections": o.connections, "concurrency": o.concurrency, "rooms": o.rooms,
        "latency_us": joined.latency.json(), "retries": joined.retries,
    }));
    line.extend(usage.fields(o.connections as u64));
    Ok(line)
}
