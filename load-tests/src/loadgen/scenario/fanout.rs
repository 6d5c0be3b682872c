//! `fanout`: what one delivery costs the server.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::flow::{Flow, Plan};
use crate::meter::{Fields, Meter, fields};
use crate::pool::Pool;
use crate::target::Common;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections in all; one per room publishes.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// Publications per room that are not yet delivered to everyone.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Bytes of one delivered message; with `--durable`, of the text in it.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Publications per room.
    #[arg(long, default_value_t = 1000)]
    publications: u64,
    /// Publications per room before the measurement.
    #[arg(long, default_value_t = 50)]
    warm_up: u64,
    /// Publish by `write`, subscribe to the project, check that `seq` is dense.
    #[arg(long)]
    durable: bool,
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    let plan = Plan {
        common: &o.common,
        subscribers: &o.common.url,
        connections: o.connections,
        rooms: o.rooms,
        bytes: o.bytes,
        durable: o.durable,
    };
    let mut flow = Flow::open(&mut pool, &plan)?;
    flow.closed_loop(&mut pool, o.in_flight, o.warm_up, |_, _, _| {})?;
    flow.reset();
    let meter = Meter::start(&o.common.pid)?;
    flow.closed_loop(&mut pool, o.in_flight, o.publications, |_, _, _| {})?;
    let usage = meter.stop()?;
    let mut line = fields(json!({
        "connections": o.connections, "rooms": o.rooms, "in_flight": o.in_flight,
        "bytes": o.bytes, "durable": o.durable,
    }));
    line.extend(usage.fields(flow.delivered()));
    line.extend(flow.fields());
    Ok(line)
}
