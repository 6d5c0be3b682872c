//! `storm`: everyone drops at once, the world goes on, everyone resumes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use load_tests::scan::{self, Finder};
use load_tests::wire;
use serde_json::json;

use crate::join::{Crowd, Joined, join};
use crate::meter::{Fields, Latency, Meter, fields, round};
use crate::ops::Ops;
use crate::pool::{Happened, Pool};
use crate::target::{Common, PROJECT, room};

/// Operations in one `write`.
const BATCH: usize = 50;
/// The connection that writes while the others are away.
const WRITER: usize = 0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Connections on their way at once when all come back.
    #[arg(long, default_value_t = 2048)]
    concurrency: usize,
    /// Changes written while everyone is away.
    #[arg(long, default_value_t = 0)]
    writes: usize,
}

/// One connection's way back: the last position it has.
#[derive(Debug)]
struct Returning {
    seqs: Vec<u64>,
    head: u64,
    start: Instant,
    last: Instant,
    back: Latency,
    missing: u64,
    duplicates: u64,
    ended: BTreeMap<String, u64>,
    seq: Finder,
}

impl Returning {
    fn take(&mut self, id: usize, now: Instant, what: Happened<'_>) {
        let text = match what {
            Happened::Text(text) => text,
            Happened::Ended(end) => {
                *self.ended.entry(end.label()).or_default() += 1;
                return;
            }
        };
        let change = text.starts_with(br#"{"type":"change""#);
        if id == WRITER || !(change || text.starts_with(br#"{"type":"advance""#)) {
            return;
        }
        let (Some(seq), Some(last)) = (self.seq.number(text), self.seqs.get_mut(id - 1)) else {
            return;
        };
        if seq <= *last {
            self.duplicates += 1;
            return;
        }
        if change {
            self.missing += seq - *last - 1;
        }
        *last = seq;
        self.last = now;
        if seq == self.head {
            self.back.record(now - self.start);
        }
    }

    fn absent(&self) -> u64 {
        self.seqs.iter().map(|seq| self.head.saturating_sub(*seq)).sum()
    }
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    let project = format!("project:{PROJECT}");
    let writer =
        o.common.opening(&o.common.url, WRITER, &room(&format!("room:{PROJECT}:writer")))?;
    arrive(o, &mut pool, WRITER, &[writer], |_, _, _| {})?;
    let openings = (0..o.connections)
        .map(|i| o.common.opening(&o.common.url, i + 1, &room(&project)))
        .collect::<Result<Vec<_>>>()?;
    let first = arrive(o, &mut pool, 1, &openings, |_, _, _| {})?;
    let epoch = scan::strings(std::str::from_utf8(&first.sample)?, "\"epoch\":\"")
        .next()
        .map(|(epoch, _)| format!(r#","epoch":"{epoch}""#))
        .unwrap_or_default();
    let cursors: Vec<u64> = first.cursors.iter().map(|seq| seq.unwrap_or(0)).collect();
    let openings = (0..o.connections)
        .map(|i| {
            let since = cursors[i];
            let room = format!(r#"{{"room":"{project}","since":{since}{epoch}}}"#);
            o.common.opening(&o.common.url, i + 1, &room)
        })
        .collect::<Result<Vec<_>>>()?;

    (1..=o.connections).for_each(|id| pool.cut(id));
    let head = write_meanwhile(o, &mut pool)?.unwrap_or(cursors.iter().copied().max().unwrap_or(0));

    let meter = Meter::start(&o.common.pid)?;
    let now = Instant::now();
    let mut returning = Returning {
        seqs: cursors,
        head,
        start: now,
        last: now,
        back: Latency::new(),
        missing: 0,
        duplicates: 0,
        ended: BTreeMap::new(),
        seq: Finder::new("\"seq\":"),
    };
    let joined = arrive(o, &mut pool, 1, &openings, |id, now, what| returning.take(id, now, what))?;
    returning.last = Instant::now();
    while returning.absent() > 0 && returning.last.elapsed() < o.common.patience() {
        pool.turn(Duration::from_millis(50), |id, now, what| returning.take(id, now, what))?;
    }
    let usage = meter.stop()?;
    let mut line = fields(json!({
        "connections": o.connections, "concurrency": o.concurrency, "writes": o.writes,
        "all_subscribed_s": round(joined.wall.as_secs_f64()),
        "latency_us": joined.latency.json(), "caught_up_us": returning.back.json(),
        "missing": returning.missing + returning.absent(), "duplicates": returning.duplicates,
        "resyncs": joined.resyncs, "retries": joined.retries, "ended": returning.ended,
    }));
    line.extend(usage.fields(o.connections as u64));
    Ok(line)
}

fn arrive(
    o: &Options,
    pool: &mut Pool,
    first: usize,
    openings: &[Vec<u8>],
    other: impl FnMut(usize, Instant, Happened<'_>),
) -> Result<Joined> {
    let crowd = Crowd {
        address: o.common.url.address,
        first,
        openings,
        concurrency: o.concurrency,
        receive_buffer: None,
        patience: o.common.patience(),
    };
    join(pool, &crowd, other)
}

/// Writes what the others miss; returns the last position, if anything was written.
fn write_meanwhile(o: &Options, pool: &mut Pool) -> Result<Option<u64>> {
    let mut ops = Ops::new(WRITER, 64)?;
    let mut left = o.writes;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let text = ops.write(1, batch);
        pool.send(WRITER, &wire::masked(wire::TEXT, text.as_bytes()))?;
        let mut failure = None;
        let start = Instant::now();
        while ops.waiting() > 0 && failure.is_none() {
            pool.turn(Duration::from_millis(50), |id, _, what| {
                if let (WRITER, Happened::Text(text)) = (id, what) {
                    if text.starts_with(br#"{"type":"error""#) {
                        failure = Some(String::from_utf8_lossy(text).into_owned());
                    } else if text.starts_with(br#"{"type":"written""#) {
                        failure = ops.written(text).err().map(|error| error.to_string());
                    }
                }
            })?;
            if start.elapsed() > o.common.patience() {
                failure = Some("no verdict".into());
            }
        }
        if let Some(failure) = failure {
            bail!("writing failed: {failure}");
        }
    }
    if ops.seqs.len() != o.writes {
        bail!("only {} of {} writes were applied", ops.seqs.len(), o.writes);
    }
    Ok(ops.seqs.last().copied())
}
