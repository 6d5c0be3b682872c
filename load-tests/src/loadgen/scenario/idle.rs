//! `idle`: what connections cost that only stay.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::join::{Crowd, join};
use crate::meter::{Fields, Meter, fields, memory, round};
use crate::pool::{Happened, Pool};
use crate::target::{Common, bench_room, room};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Rooms they are spread over, one each.
    #[arg(long, default_value_t = 100)]
    rooms: usize,
    /// How long to watch them stay.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let pids = &o.common.pid;
    let mut pool = Pool::new()?;
    let openings = (0..o.connections)
        .map(|i| o.common.opening(&o.common.url, i, &room(&bench_room(i % o.rooms))))
        .collect::<Result<Vec<_>>>()?;
    let (pss, rss) = (memory(pids, "smaps_rollup", "Pss")?, memory(pids, "status", "VmRSS")?);
    let crowd = Crowd {
        address: o.common.url.address,
        first: 0,
        openings: &openings,
        concurrency: 128,
        receive_buffer: None,
        patience: o.common.patience(),
    };
    let joined = join(&mut pool, &crowd, |_, _, _| {})?;
    let pss_after = memory(pids, "smaps_rollup", "Pss")?;
    let rss_after = memory(pids, "status", "VmRSS")?;

    let (mut frames, mut ended) = (0_u64, 0_u64);
    let meter = Meter::start(pids)?;
    let end = Instant::now() + Duration::from_secs_f64(o.seconds);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        pool.turn(left + Duration::from_millis(1), |_, _, what| match what {
            Happened::Text(_) => frames += 1,
            Happened::Ended(_) => ended += 1,
        })?;
    }
    let usage = meter.stop()?;
    let settled = memory(pids, "smaps_rollup", "Pss")?;
    let each = |before: u64, after: u64| {
        round((after as f64 - before as f64) / o.connections.max(1) as f64)
    };
    Ok(fields(json!({
        "connections": o.connections, "rooms": o.rooms, "seconds": o.seconds,
        "bytes_per_connection": each(pss, settled),
        "bytes_per_connection_at_once": each(pss, pss_after),
        "rss_bytes_per_connection": each(rss, rss_after),
        "pss_before": pss, "pss_after": settled,
        "idle_us_per_connection_and_second": usage.server_us_per_second(o.connections as u64),
        "frames": frames, "ended": ended, "retries": joined.retries,
        "wall_s": round(joined.wall.as_secs_f64()),
    })))
}
