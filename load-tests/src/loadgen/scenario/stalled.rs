//! `stalled`: some stop reading; the others must not notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::flow::{Flow, Plan};
use crate::join::{Crowd, join};
use crate::meter::{Fields, Meter, fields, memory};
use crate::pool::{Happened, Pool};
use crate::target::{Common, bench_room, room};

/// The kernel's receive buffer of a connection that stops reading.
const TINY: usize = 2048;
/// Silence after which no more is expected for those who read again.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Healthy connections; one publishes.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Connections in the same room that stop reading.
    #[arg(long, default_value_t = 1000)]
    stalled: usize,
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    #[arg(long, default_value_t = 600)]
    publications: u64,
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    let plan = Plan {
        common: &o.common,
        subscribers: &o.common.url,
        connections: o.connections,
        rooms: 1,
        bytes: o.bytes,
        durable: false,
    };
    let pids = &o.common.pid;
    let mut flow = Flow::open(&mut pool, &plan)?;
    flow.closed_loop(&mut pool, o.in_flight, o.publications / 10, |_, _, _| {})?;
    flow.reset();
    flow.closed_loop(&mut pool, o.in_flight, o.publications, |_, _, _| {})?;
    let alone = flow.latency().json();

    let first = pool.len();
    let openings = (first..first + o.stalled)
        .map(|user| o.common.opening(&o.common.url, user, &room(&bench_room(0))))
        .collect::<Result<Vec<_>>>()?;
    let crowd = Crowd {
        address: o.common.url.address,
        first,
        openings: &openings,
        concurrency: 128,
        receive_buffer: Some(TINY),
        patience: o.common.patience(),
    };
    join(&mut pool, &crowd, |_, _, _| {})?;
    for id in first..pool.len() {
        pool.stall(id, true)?;
    }
    flow.reset();
    let rss = memory(pids, "status", "VmRSS")?;
    let meter = Meter::start(pids)?;
    flow.closed_loop(&mut pool, o.in_flight, o.publications, |_, _, _| {})?;
    let usage = meter.stop()?;
    let rss_peak = memory(pids, "status", "VmHWM")?;
    let (closes, cut_short) = read_again(&mut pool, first, o.publications)?;

    let mut line = fields(json!({
        "connections": o.connections, "stalled": o.stalled, "in_flight": o.in_flight,
        "bytes": o.bytes, "latency_alone_us": alone, "closes": closes,
        "open_but_cut_short": cut_short, "rss_before": rss, "rss_peak": rss_peak,
    }));
    line.extend(usage.fields(flow.delivered()));
    line.extend(flow.fields());
    Ok(line)
}

/// Lets the stalled read what is left for them; counts how each ended (`open`: it did not), and those
/// that stayed open without having got every publication.
fn read_again(
    pool: &mut Pool,
    first: usize,
    publications: u64,
) -> Result<(BTreeMap<String, u64>, u64)> {
    let mut received = vec![0_u64; pool.len() - first];
    let mut open = vec![true; pool.len() - first];
    let mut closes = BTreeMap::<String, u64>::new();
    for id in first..pool.len() {
        pool.stall(id, false)?;
    }
    let mut last = Instant::now();
    while last.elapsed() < QUIET && open.contains(&true) {
        pool.turn(Duration::from_millis(50), |id, now, what| {
            let Some(index) = id.checked_sub(first) else { return };
            last = now;
            match what {
                Happened::Text(text) => {
                    received[index] += u64::from(text.starts_with(br#"{"type":"event""#));
                }
                Happened::Ended(end) => {
                    open[index] = false;
                    *closes.entry(end.label()).or_default() += 1;
                }
            }
        })?;
    }
    let still = open.iter().zip(&received).filter(|(open, _)| **open);
    let cut_short = still.clone().filter(|(_, received)| **received < publications).count() as u64;
    closes.insert("open".into(), still.count() as u64);
    Ok((closes, cut_short))
}
