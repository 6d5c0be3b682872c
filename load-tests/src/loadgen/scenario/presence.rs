//! `presence-churn`: joins, leaves and state updates at a steady rate, and a count at the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use load_tests::scan::Finder;
use load_tests::wire;
use serde_json::json;

use crate::join::{Crowd, Joined, join};
use crate::meter::{Fields, Meter, fields};
use crate::pool::{Happened, Pool};
use crate::target::{Common, bench_room};

/// How long the hub may gather changes before the count must be right.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    #[arg(long, default_value_t = 20)]
    rooms: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Updates, leaves and joins per second, in all.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
}

/// What a connection did last; it updates, leaves, joins, updates, …
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Joined,
    Updated,
    Left,
}

#[derive(Debug, Default)]
struct Heard {
    presence: u64,
    presence_bytes: u64,
    errors: u64,
    first_error: Option<String>,
    ended: u64,
}

impl Heard {
    fn take(&mut self, what: &Happened<'_>) {
        match what {
            Happened::Text(text) if text.starts_with(br#"{"type":"presence""#) => {
                self.presence += 1;
                self.presence_bytes += text.len() as u64;
            }
            Happened::Text(text) if text.starts_with(br#"{"type":"error""#) => {
                self.errors += 1;
                let text = String::from_utf8_lossy(text);
                self.first_error.get_or_insert_with(|| text.into_owned());
            }
            Happened::Text(_) => {}
            Happened::Ended(_) => self.ended += 1,
        }
    }
}

pub(crate) fn run(o: &Options) -> Result<Fields> {
    let mut pool = Pool::new()?;
    let mut heard = Heard::default();
    let openings = (0..o.connections)
        .map(|i| o.common.opening(&o.common.url, i, &present(&bench_room(i % o.rooms))))
        .collect::<Result<Vec<_>>>()?;
    arrive(o, &mut pool, &openings, &mut heard)?;
    heard = Heard::default();
    let mut steps = vec![Step::Joined; o.connections];
    let meter = Meter::start(&o.common.pid)?;
    let start = Instant::now();
    let total = (o.rate * o.seconds).ceil() as u64;
    let mut sent = 0_u64;
    while sent < total {
        while sent < total
            && start + Duration::from_secs_f64(sent as f64 / o.rate) <= Instant::now()
        {
            let id = usize::try_from(sent)? % o.connections;
            let frame = steps[id].next(&bench_room(id % o.rooms), sent);
            pool.send(id, &wire::masked(wire::TEXT, frame.as_bytes()))?;
            sent += 1;
        }
        pool.turn(Duration::from_millis(1), |_, _, what| heard.take(&what))?;
    }
    let usage = meter.stop()?;
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled {
        pool.turn(Duration::from_millis(50), |_, _, what| heard.take(&what))?;
    }
    let mut line = fields(json!({
        "connections": o.connections, "rooms": o.rooms, "seconds": o.seconds, "rate": o.rate,
        "presence_frames": heard.presence, "presence_bytes": heard.presence_bytes,
        "mismatched_rooms": mismatches(o, &mut pool, &steps, &mut heard)?,
        "errors": heard.errors, "first_error": heard.first_error, "ended": heard.ended,
    }));
    line.extend(usage.fields(total));
    Ok(line)
}

impl Step {
    /// Takes the next step in `room`; returns the request that does it.
    fn next(&mut self, room: &str, n: u64) -> String {
        let (step, request) = match self {
            Self::Joined => (
                Self::Updated,
                format!(r#"{{"type":"presence","room":"{room}","state":{{"n":{n}}}}}"#),
            ),
            Self::Updated => {
                (Self::Left, format!(r#"{{"type":"unsubscribe","rooms":["{room}"]}}"#))
            }
            Self::Left => {
                (Self::Joined, format!(r#"{{"type":"subscribe","rooms":[{}]}}"#, present(room)))
            }
        };
        *self = step;
        request
    }
}

/// Asks for every room's count with a fresh connection; returns how many are wrong.
fn mismatches(o: &Options, pool: &mut Pool, steps: &[Step], heard: &mut Heard) -> Result<u64> {
    let mut users = Finder::new("\"users\":");
    let mut wrong = 0;
    for k in 0..o.rooms {
        let here = steps.iter().skip(k).step_by(o.rooms).filter(|step| **step != Step::Left).count()
            as u64;
        let opening = o.common.opening(&o.common.url, pool.len(), &present(&bench_room(k)))?;
        let joined = arrive(o, pool, &[opening], heard)?;
        // The observer may count itself.
        let counted = users.number(&joined.sample).is_some_and(|n| n == here || n == here + 1);
        wrong += u64::from(!counted);
    }
    Ok(wrong)
}

fn arrive(o: &Options, pool: &mut Pool, openings: &[Vec<u8>], heard: &mut Heard) -> Result<Joined> {
    let crowd = Crowd {
        address: o.common.url.address,
        first: pool.len(),
        openings,
        concurrency: 128,
        receive_buffer: None,
        patience: o.common.patience(),
    };
    join(pool, &crowd, |_, _, what| heard.take(&what))
}

fn present(room: &str) -> String {
    format!(r#"{{"room":"{room}","presence":true}}"#)
}
