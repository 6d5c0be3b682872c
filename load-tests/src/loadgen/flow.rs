//! Publications on their way: who must still receive which, how long it took, what was lost.
//!
//! Every publication of a room carries the next number of that room, so a receiver that counts along
//! sees each loss and each repetition. Durable ones are also checked for a dense `seq`.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use load_tests::scan::Finder;
use load_tests::wire;
use serde_json::json;

use crate::join::{Crowd, join};
use crate::meter::{Fields, Latency, fields};
use crate::ops::Ops;
use crate::pool::{Happened, Pool};
use crate::target::{Common, PROJECT, Url, bench_room, room};

/// Added to every number, so that all have the same width.
const BASE: u64 = 1_000_000_000;

/// Who publishes what to whom.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) common: &'a Common,
    /// Where the subscribers connect; publishers always use `common.url`.
    pub(crate) subscribers: &'a Url,
    /// Connections in all, one publisher per room among them.
    pub(crate) connections: usize,
    pub(crate) rooms: usize,
    /// Bytes of one delivered message.
    pub(crate) bytes: usize,
    /// Publish by `write` to the project instead of by `broadcast` to rooms.
    pub(crate) durable: bool,
}

/// A set of rooms with their publishers and subscribers, joined and ready.
#[derive(Debug)]
pub(crate) struct Flow {
    rooms: Vec<Room>,
    /// By connection; publishers and bystanders have none.
    subscribers: Vec<Option<Subscriber>>,
    padding: String,
    ops: Option<Ops>,
    tally: Tally,
    number: Finder,
    seq: Finder,
    last: Instant,
    patience: Duration,
}

/// What was counted since [`Flow::reset`].
#[derive(Debug)]
struct Tally {
    latency: Latency,
    delivered: u64,
    published: u64,
    /// Deliveries the publications must lead to.
    expected: u64,
    duplicates: u64,
    seq_breaks: u64,
    echoes: u64,
    errors: u64,
    first_error: Option<String>,
    ended: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Room {
    publisher: usize,
    subscribers: u64,
    /// The number of the next publication.
    next: u64,
    /// Publications not yet delivered to everyone, oldest first.
    pending: VecDeque<(Instant, u64)>,
}

#[derive(Debug)]
struct Subscriber {
    room: usize,
    next: u64,
    seq: Option<u64>,
}

impl Flow {
    /// Connects everyone: one publisher per room first, then the subscribers, spread over the rooms.
    pub(crate) fn open(pool: &mut Pool, plan: &Plan<'_>) -> Result<Self> {
        if plan.connections <= plan.rooms || (plan.durable && plan.rooms != 1) {
            bail!("every room needs a publisher and a subscriber, and the project is one room");
        }
        let first = pool.len();
        let name = |k: usize| match plan.durable {
            true => format!("project:{PROJECT}"),
            false => bench_room(k),
        };
        let mut flow = Self {
            rooms: Vec::new(),
            subscribers: (0..first + plan.rooms).map(|_| None).collect(),
            padding: "x".repeat(plan.bytes.saturating_sub(event("").len())),
            ops: plan.durable.then(|| Ops::new(0, plan.bytes)).transpose()?,
            tally: Tally::new(),
            number: Finder::new("\"n\":"),
            seq: Finder::new("\"seq\":"),
            last: Instant::now(),
            patience: plan.common.patience(),
        };
        let mut publishers = Vec::new();
        for k in 0..plan.rooms {
            let own = if plan.durable { format!("room:{PROJECT}:publisher") } else { name(k) };
            publishers.push(plan.common.opening(&plan.common.url, first + k, &room(&own))?);
            let (next, pending) = (0, VecDeque::new());
            flow.rooms.push(Room { publisher: first + k, subscribers: 0, next, pending });
        }
        let mut subscribers = Vec::new();
        for i in 0..plan.connections - plan.rooms {
            let user = first + plan.rooms + i;
            let own = name(i % plan.rooms);
            subscribers.push(plan.common.opening(plan.subscribers, user, &room(&own))?);
            flow.rooms[i % plan.rooms].subscribers += 1;
        }
        flow.join(pool, first, &plan.common.url, &publishers)?;
        let cursors = flow.join(pool, first + plan.rooms, plan.subscribers, &subscribers)?;
        for (i, seq) in cursors.into_iter().enumerate() {
            let seq = seq.filter(|_| plan.durable);
            flow.subscribers.push(Some(Subscriber { room: i % plan.rooms, next: 0, seq }));
        }
        Ok(flow)
    }

    fn join(
        &mut self,
        pool: &mut Pool,
        first: usize,
        url: &Url,
        openings: &[Vec<u8>],
    ) -> Result<Vec<Option<u64>>> {
        let (address, patience) = (url.address, self.patience);
        let crowd =
            Crowd { address, first, openings, concurrency: 128, receive_buffer: None, patience };
        Ok(join(pool, &crowd, |id, now, what| self.take(id, now, what))?.cursors)
    }

    /// Forgets what was counted so far: the warm-up is over.
    pub(crate) fn reset(&mut self) {
        self.tally = Tally::new();
    }

    /// Keeps `in_flight` publications per room on their way until each room had `publications`, and
    /// waits for the last delivery.
    pub(crate) fn closed_loop(
        &mut self,
        pool: &mut Pool,
        in_flight: usize,
        publications: u64,
        mut other: impl FnMut(usize, Instant, Happened<'_>),
    ) -> Result<()> {
        let mut left = vec![publications; self.rooms.len()];
        self.last = Instant::now();
        loop {
            for (k, left) in left.iter_mut().enumerate() {
                let free = in_flight.saturating_sub(self.rooms[k].pending.len());
                let now = u64::try_from(free)?.min(*left);
                *left -= now;
                self.publish(pool, k, now, Instant::now())?;
            }
            if left.iter().all(|left| *left == 0) && self.settled() {
                return Ok(());
            }
            if self.gave_up() {
                return Ok(());
            }
            self.turn(pool, Duration::from_millis(50), &mut other)?;
        }
    }

    /// Publishes `rate` times a second in all, room after room, whatever the server does; latency counts
    /// from when a publication was due.
    pub(crate) fn open_loop(
        &mut self,
        pool: &mut Pool,
        rate: f64,
        publications: u64,
    ) -> Result<()> {
        let start = Instant::now();
        let mut sent = 0;
        self.last = start;
        while sent < publications || !self.settled() {
            loop {
                let due = start + Duration::from_secs_f64(sent as f64 / rate);
                if sent == publications || due > Instant::now() {
                    break;
                }
                let room = usize::try_from(sent)? % self.rooms.len();
                self.publish(pool, room, 1, due)?;
                sent += 1;
            }
            if sent == publications && self.gave_up() {
                return Ok(());
            }
            // The schedule is finer than epoll's timeout: spin, unless a database needs the CPU.
            let wait = Duration::from_millis(u64::from(self.ops.is_some()));
            self.turn(pool, wait, &mut |_, _, _| {})?;
        }
        Ok(())
    }

    /// Deliveries one publication leads to, on average over the rooms.
    pub(crate) fn per_publication(&self) -> f64 {
        self.rooms.iter().map(|room| room.subscribers).sum::<u64>() as f64 / self.rooms.len() as f64
    }

    /// Deliveries counted since the last [`Flow::reset`].
    pub(crate) fn delivered(&self) -> u64 {
        self.tally.delivered
    }

    /// Latencies since the last [`Flow::reset`].
    pub(crate) fn latency(&self) -> &Latency {
        &self.tally.latency
    }

    /// Everything counted, for the JSON line.
    pub(crate) fn fields(&self) -> Fields {
        let tally = &self.tally;
        let mut fields = fields(json!({
            "publications": tally.published,
            "deliveries": tally.delivered,
            "latency_us": tally.latency.json(),
            "missing": tally.expected.saturating_sub(tally.delivered),
            "duplicates": tally.duplicates,
            "echoes": tally.echoes,
            "errors": tally.errors,
            "first_error": tally.first_error,
            "ended": tally.ended,
        }));
        if let Some(ops) = &self.ops {
            fields.insert("seq_breaks".into(), json!(tally.seq_breaks));
            fields.insert("outcomes".into(), json!(ops.outcomes));
        }
        fields
    }

    fn publish(&mut self, pool: &mut Pool, k: usize, count: u64, at: Instant) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let mut frames = Vec::new();
        for _ in 0..count {
            let room = &mut self.rooms[k];
            let n = BASE + room.next;
            room.next += 1;
            room.pending.push_back((at, room.subscribers));
            self.tally.published += 1;
            self.tally.expected += room.subscribers;
            let text = match &mut self.ops {
                Some(ops) => ops.write(n, 1),
                None => broadcast(&bench_room(k), n, &self.padding),
            };
            frames.extend_from_slice(&wire::masked(wire::TEXT, text.as_bytes()));
        }
        pool.send(self.rooms[k].publisher, &frames)?;
        Ok(())
    }

    fn turn(
        &mut self,
        pool: &mut Pool,
        wait: Duration,
        other: &mut impl FnMut(usize, Instant, Happened<'_>),
    ) -> Result<()> {
        let known = self.subscribers.len();
        pool.turn(
            wait,
            |id, now, what| {
                if id < known { self.take(id, now, what) } else { other(id, now, what) }
            },
        )
    }

    fn settled(&self) -> bool {
        self.rooms.iter().all(|room| room.pending.is_empty())
    }

    /// Whether nothing moved for too long; what is pending then stays missing.
    fn gave_up(&mut self) -> bool {
        let stuck = self.last.elapsed() > self.patience;
        if stuck {
            self.rooms.iter_mut().for_each(|room| room.pending.clear());
        }
        stuck
    }

    fn take(&mut self, id: usize, now: Instant, what: Happened<'_>) {
        let text = match what {
            Happened::Text(text) => text,
            Happened::Ended(end) => {
                *self.tally.ended.entry(end.label()).or_default() += 1;
                return;
            }
        };
        if text.starts_with(br#"{"type":"event""#) || text.starts_with(br#"{"type":"change""#) {
            self.delivery(id, now, text);
        } else if text.starts_with(br#"{"type":"written""#) {
            if let Some(Err(error)) = self.ops.as_mut().map(|ops| ops.written(text)) {
                self.tally.error(&error.to_string());
            }
        } else if text.starts_with(br#"{"type":"error""#) {
            self.tally.error(&String::from_utf8_lossy(text));
        }
    }

    fn delivery(&mut self, id: usize, now: Instant, text: &[u8]) {
        let Some(Some(subscriber)) = self.subscribers.get_mut(id) else {
            self.tally.echoes += 1;
            return;
        };
        let Some(n) = self.number.number(text).and_then(|n| n.checked_sub(BASE)) else {
            return;
        };
        if let Some(last) = subscriber.seq {
            let seq = self.seq.number(text);
            self.tally.seq_breaks += u64::from(seq != Some(last + 1));
            subscriber.seq = seq.or(Some(last));
        }
        if n < subscriber.next {
            self.tally.duplicates += 1;
            return;
        }
        subscriber.next = n + 1;
        let room = &mut self.rooms[subscriber.room];
        let oldest = room.next - room.pending.len() as u64;
        let at = n.checked_sub(oldest).and_then(|at| usize::try_from(at).ok());
        if let Some((sent, left)) = at.and_then(|at| room.pending.get_mut(at)) {
            *left -= 1;
            self.tally.latency.record(now.saturating_duration_since(*sent));
            self.tally.delivered += 1;
        }
        while room.pending.front().is_some_and(|(_, left)| *left == 0) {
            room.pending.pop_front();
        }
        self.last = now;
    }
}

impl Tally {
    fn new() -> Self {
        Self {
            latency: Latency::new(),
            delivered: 0,
            published: 0,
            expected: 0,
            duplicates: 0,
            seq_breaks: 0,
            echoes: 0,
            errors: 0,
            first_error: None,
            ended: BTreeMap::new(),
        }
    }

    fn error(&mut self, text: &str) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| text.to_owned());
    }
}

/// What a subscriber gets of a broadcast, for the size only.
fn event(padding: &str) -> String {
    broadcast(&bench_room(0), BASE, padding).replacen("broadcast", "event", 1)
}

fn broadcast(room: &str, n: u64, padding: &str) -> String {
    format!(
        r#"{{"type":"broadcast","room":"{room}","event":"e","data":{{"n":{n},"pad":"{padding}"}}}}"#
    )
}
