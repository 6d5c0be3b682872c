//! `writes`: how many durable operations a second, and how long a verdict takes.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use load_tests::wire;
use serde_json::json;

use crate::join::{Crowd, join};
use crate::meter::{Fields, Latency, Meter, fields};
use crate::ops::{Ops, dense};
use crate::pool::{Happened, Pool};
use crate::target::{Common, Url, bench_room, room};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// A second instance on the same store; every other connection goes there.
    #[arg(long)]
    url2: Option<Url>,
    /// Connections that write, each with one batch on its way.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Operations in one `write`.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of text in one operation.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Operations a second, whatever the server does; as many as it takes without this. Latency counts
    /// from when a batch was due.
    #[arg(long)]
    rate: Option<f64>,
}

struct Writer {
    ops: Ops,
    sent: Instant,
    busy: bool,
}

/// When the next batch is due.
struct Schedule {
    start: Instant,
    /// Seconds between two batches; none if a batch is due whenever a writer is free.
    every: Option<f64>,
    sent: u32,
}

impl Schedule {
    fn new(o: &Options) -> Self {
        let every = o.rate.map(|rate| o.batch as f64 / rate);
        Self { start: Instant::now(), every, sent: 0 }
    }

    /// When the batch that is to be sent now was due, if one is.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        let Some(every) = self.every else { return Some(now) };
        let due = self.start + Duration::from_secs_f64(every * f64::from(self.sent));
        (due <= now).then(|| {
            self.sent += 1;
            due
        })
    }

    /// How long to wait for answers. A schedule is kept to the millisecond: to spin would take the CPU
    /// that the database needs.
    fn wait(&self) -> Duration {
        Duration::from_millis(if self.every.is_some() { 1 } else { 50 })
    }
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    for i in 0..o.connections {
        let url = o.url2.as_ref().filter(|_| i % 2 == 1).unwrap_or(&o.common.url);
        let crowd = Crowd {
            address: url.address,
            first: i,
            openings: &[o.common.opening(url, i, &room(&bench_room(i)))?],
            concurrency: 1,
            receive_buffer: None,
            patience: o.common.patience(),
        };
        join(&mut pool, &crowd, |_, _, _| {})?;
    }
    let mut writers = Vec::new();
    for i in 0..o.connections {
        let ops = Ops::new(i, o.bytes)?;
        writers.push(Writer { ops, sent: Instant::now(), busy: false });
    }
    let mut latency = Latency::new();
    let (mut errors, mut first_error) = (0_u64, None);
    let meter = Meter::start(&o.common.pid)?;
    let end = Instant::now() + Duration::from_secs_f64(o.seconds);
    let mut last = Instant::now();
    let mut schedule = Schedule::new(o);
    loop {
        let open = Instant::now() < end;
        for (id, writer) in writers.iter_mut().enumerate().filter(|(_, w)| open && !w.busy) {
            let Some(due) = schedule.due(Instant::now()) else { break };
            let text = writer.ops.write(1, o.batch);
            writer.busy = true;
            writer.sent = due;
            pool.send(id, &wire::masked(wire::TEXT, text.as_bytes()))?;
        }
        if (!open && writers.iter().all(|w| !w.busy)) || last.elapsed() > o.common.patience() {
            break;
        }
        pool.turn(schedule.wait(), |id, now, what| {
            let writer = &mut writers[id];
            let failure = match what {
                Happened::Text(text) if text.starts_with(br#"{"type":"written""#) => {
                    latency.record(now - writer.sent);
                    writer.ops.written(text).err().map(|error| error.to_string())
                }
                Happened::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                Happened::Ended(end) => Some(end.label()),
            };
            writer.busy = false;
            last = now;
            if let Some(failure) = failure {
                errors += 1;
                first_error.get_or_insert(failure);
            }
        })?;
    }
    let usage = meter.stop()?;
    let mut line = verdicts(&writers);
    line.extend(usage.fields(line["applied"].as_u64().unwrap_or(0)));
    line.extend(fields(json!({
        "connections": o.connections, "batch": o.batch, "seconds": o.seconds, "bytes": o.bytes, "rate": o.rate,
        "url2": o.url2.as_ref().map(Url::to_string),
        "latency_us": latency.json(), "errors": errors, "first_error": first_error,
    })));
    Ok(line)
}

fn verdicts(writers: &[Writer]) -> Fields {
    let mut outcomes = Fields::new();
    for (outcome, count) in writers.iter().flat_map(|w| &w.ops.outcomes) {
        let sum = outcomes.get(outcome).and_then(|n| n.as_u64()).unwrap_or(0) + count;
        outcomes.insert(outcome.clone(), json!(sum));
    }
    let seqs: Vec<u64> = writers.iter().flat_map(|w| w.ops.seqs.iter().copied()).collect();
    fields(json!({
        "applied": seqs.len(),
        "outcomes": outcomes,
        "without_verdict": writers.iter().map(|w| w.ops.waiting()).sum::<usize>(),
        "stray_verdicts": writers.iter().map(|w| w.ops.strays).sum::<u64>(),
        "dense": dense(seqs),
    }))
}
