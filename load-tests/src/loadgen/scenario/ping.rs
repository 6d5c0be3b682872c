//! `ping`: what one application ping and its answer cost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use load_tests::wire;
use serde_json::json;

use crate::join::{Crowd, join};
use crate::meter::{Fields, Latency, Meter, fields};
use crate::pool::{Happened, Pool};
use crate::target::{Common, bench_room, room};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections the pings are spread over.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Pings without an answer, in all.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Pings in all.
    #[arg(long, default_value_t = 200_000)]
    count: u64,
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    let openings = (0..o.connections)
        .map(|i| o.common.opening(&o.common.url, i, &room(&bench_room(i))))
        .collect::<Result<Vec<_>>>()?;
    let crowd = Crowd {
        address: o.common.url.address,
        first: 0,
        openings: &openings,
        concurrency: 64,
        receive_buffer: None,
        patience: o.common.patience(),
    };
    join(&mut pool, &crowd, |_, _, _| {})?;
    let ping = wire::masked(wire::TEXT, br#"{"type":"ping","id":7}"#);
    let mut waiting: Vec<VecDeque<Instant>> = vec![VecDeque::new(); o.connections];
    let mut latency = Latency::new();
    let (mut sent, mut answered, mut unexpected) = (0_u64, 0_u64, 0_u64);
    let meter = Meter::start(&o.common.pid)?;
    let mut last = Instant::now();
    let mut free: Vec<usize> = (0..o.in_flight).map(|i| i % o.connections).collect();
    while answered < o.count && last.elapsed() < o.common.patience() {
        for id in free.drain(..) {
            if sent < o.count {
                sent += 1;
                waiting[id].push_back(Instant::now());
                pool.send(id, &ping)?;
            }
        }
        pool.turn(Duration::from_millis(50), |id, now, what| match what {
            Happened::Text(text) if text.starts_with(br#"{"type":"pong""#) => {
                let Some(sent) = waiting[id].pop_front() else {
                    unexpected += 1;
                    return;
                };
                latency.record(now - sent);
                answered += 1;
                last = now;
                free.push(id);
            }
            _ => unexpected += 1,
        })?;
    }
    let usage = meter.stop()?;
    let mut line = fields(json!({
        "connections": o.connections, "in_flight": o.in_flight,
        "latency_us": latency.json(), "missing": sent - answered, "unexpected": unexpected,
    }));
    line.extend(usage.fields(answered));
    Ok(line)
}
