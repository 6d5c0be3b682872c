//! What a stretch of work cost: CPU time from the scheduler, wall time, latencies.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// Kernel clock ticks a second in `/proc/PID/stat`; the same on every Linux of today.
const NANOS_PER_TICK: u64 = 10_000_000;

/// The fields of a scenario's JSON line.
pub(crate) type Fields = Map<String, Value>;

/// Measures from [`Meter::start`] to [`Meter::stop`].
#[derive(Debug)]
pub(crate) struct Meter {
    pids: Vec<u32>,
    servers: Vec<Cpu>,
    generator: Cpu,
    start: Instant,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// CPU time of the server's processes; absent if no `--pid` was given.
    server: Option<u64>,
    generator: u64,
    /// Elapsed time.
    pub(crate) wall: Duration,
}

/// CPU time of one process in nanoseconds, twice: exact per living thread, and in ticks with the dead.
#[derive(Debug)]
struct Cpu {
    threads: HashMap<String, u64>,
    ticks: u64,
}

impl Cpu {
    fn of(pid: u32) -> Result<Self> {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            // A thread may end between the listing and the look at it.
            if let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) {
                let ran = text.split(' ').next().unwrap_or_default().parse()?;
                threads.insert(entry.file_name().to_string_lossy().into_owned(), ran);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks =
            fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Ok(Self { threads, ticks })
    }

    fn since(&self, before: &Self) -> u64 {
        if before.threads.keys().any(|thread| !self.threads.contains_key(thread)) {
            return (self.ticks - before.ticks) * NANOS_PER_TICK;
        }
        let spent = |(thread, ran): (&String, &u64)| {
            ran.saturating_sub(before.threads.get(thread).copied().unwrap_or(0))
        };
        self.threads.iter().map(spent).sum()
    }
}

impl Meter {
    /// Begins to measure the processes `pids` and this one.
    pub(crate) fn start(pids: &[u32]) -> Result<Self> {
        let servers = pids.iter().map(|pid| Cpu::of(*pid)).collect::<Result<_>>()?;
        let generator = Cpu::of(std::process::id())?;
        Ok(Self { pids: pids.to_vec(), servers, generator, start: Instant::now() })
    }

    /// What was spent since the start.
    pub(crate) fn stop(&self) -> Result<Usage> {
        let wall = self.start.elapsed();
        let mut server = 0;
        for (pid, before) in self.pids.iter().zip(&self.servers) {
            server += Cpu::of(*pid).context("the server ended")?.since(before);
        }
        let generator = Cpu::of(std::process::id())?.since(&self.generator);
        Ok(Usage { server: (!self.pids.is_empty()).then_some(server), generator, wall })
    }
}

impl Usage {
    /// The usage per operation of `ops`, under the names every scenario shares.
    pub(crate) fn fields(&self, ops: u64) -> Fields {
        let each = |nanos: u64| round(nanos as f64 / 1e3 / ops.max(1) as f64);
        let mut fields = Fields::new();
        fields.insert("ops".into(), json!(ops));
        fields.insert("server_us_per_op".into(), json!(self.server.map(each)));
        fields.insert("generator_us_per_op".into(), json!(each(self.generator)));
        fields.insert("wall_s".into(), json!(round(self.wall.as_secs_f64())));
        let rate = ops as f64 / self.wall.as_secs_f64();
        fields.insert("ops_per_s".into(), json!(rate.round()));
        fields
    }

    /// Microseconds of server CPU per second of wall time and operation.
    pub(crate) fn server_us_per_second(&self, ops: u64) -> Option<f64> {
        let ops = ops.max(1) as f64 * self.wall.as_secs_f64();
        self.server.map(|nanos| round(nanos as f64 / 1e3 / ops))
    }
}

/// Three decimals are more than any of this is exact to.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Latencies in nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Histogram::new(3).expect("three significant digits are allowed"))
    }

    /// Notes one.
    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.record(nanos).expect("an automatically resized histogram takes every value");
    }

    /// The quantile in microseconds.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        round(self.0.value_at_quantile(q) as f64 / 1e3)
    }

    /// The usual quantiles in microseconds.
    pub(crate) fn json(&self) -> Value {
        json!({
            "count": self.0.len(),
            "p50": self.quantile(0.5), "p95": self.quantile(0.95), "p99": self.quantile(0.99),
            "p99_9": self.quantile(0.999), "max": round(self.0.max() as f64 / 1e3),
        })
    }
}

/// A line of `/proc/PID/{file}` in bytes, summed over `pids`.
pub(crate) fn memory(pids: &[u32], file: &str, name: &str) -> Result<u64> {
    let mut kib = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|l| l.trim().strip_suffix(" kB")).context("no such line")?;
        kib += number.parse::<u64>()?;
    }
    Ok(kib << 10)
}

/// Makes a JSON object's fields out of `json!({…})`.
pub(crate) fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        other => Fields::from_iter([("value".to_owned(), other)]),
    }
}
