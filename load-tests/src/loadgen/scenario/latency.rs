//! `latency` and `bridge`: how long a delivery takes at a steady rate, on one instance and across two.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::flow::{Flow, Plan};
use crate::meter::{Fields, Meter, fields, round};
use crate::pool::Pool;
use crate::target::{Common, Url};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
pub(crate) struct BridgeOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The other instance, where the subscribers are.
    #[arg(long)]
    url2: Url,
    #[command(flatten)]
    load: Load,
}

#[derive(Debug, Args)]
struct Load {
    /// Deliveries per second.
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    #[arg(long, default_value_t = 20)]
    rooms: usize,
    /// Bytes of one delivered message.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Publish by `write` to the project instead of by `broadcast` to rooms; there is one room then.
    #[arg(long)]
    durable: bool,
    /// Length of the measurement.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Load {
    fn params(&self) -> Fields {
        fields(json!({
            "rate": self.rate, "connections": self.connections, "rooms": self.rooms,
            "bytes": self.bytes, "seconds": self.seconds, "durable": self.durable,
        }))
    }

    /// Runs the load with the subscribers at `subscribers`; returns its fields and the p50 and p99.
    fn run(&self, common: &Common, subscribers: &Url) -> Result<(Fields, f64, f64)> {
        let mut pool = Pool::new()?;
        let plan = Plan {
            common,
            subscribers,
            connections: self.connections,
            rooms: self.rooms,
            bytes: self.bytes,
            durable: self.durable,
        };
        let mut flow = Flow::open(&mut pool, &plan)?;
        let rate = self.rate / flow.per_publication();
        let publications = (rate * self.seconds).ceil();
        flow.open_loop(&mut pool, rate, (publications / 10.0).ceil() as u64)?;
        flow.reset();
        let meter = Meter::start(&common.pid)?;
        flow.open_loop(&mut pool, rate, publications as u64)?;
        let usage = meter.stop()?;
        let mut line = usage.fields(flow.delivered());
        line.extend(flow.fields());
        Ok((line, flow.latency().quantile(0.5), flow.latency().quantile(0.99)))
    }
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut line = o.load.params();
    line.extend(o.load.run(&o.common, &o.common.url)?.0);
    Ok(line)
}

pub(crate) fn bridge(o: &BridgeOptions) -> Result<Fields> {
    let (local, local_p50, local_p99) = o.load.run(&o.common, &o.common.url)?;
    let (remote, remote_p50, remote_p99) = o.load.run(&o.common, &o.url2)?;
    let mut line = o.load.params();
    line.insert("url2".into(), json!(o.url2.to_string()));
    line.insert("added_p50_us".into(), json!(round(remote_p50 - local_p50)));
    line.insert("added_p99_us".into(), json!(round(remote_p99 - local_p99)));
    line.insert("local".into(), json!(local));
    // The fields of the way across stand at the top, like those of every other scenario.
    line.extend(remote);
    Ok(line)
}
