//! Bringing a crowd of connections into their rooms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use load_tests::scan::{self, Finder};

use crate::meter::Latency;
use crate::pool::{Happened, Pool};

/// How often one connection is tried.
const ATTEMPTS: u32 = 10;
/// How long a refused connection waits before it tries again, times the attempt.
const BACK_OFF: Duration = Duration::from_millis(200);

/// A crowd that is to join.
#[derive(Debug)]
pub(crate) struct Crowd<'a> {
    /// The server.
    pub(crate) address: SocketAddr,
    /// The index of the first of them in the pool.
    pub(crate) first: usize,
    /// What each sends first, upgrade and `subscribe`.
    pub(crate) openings: &'a [Vec<u8>],
    /// How many may be on their way at once.
    pub(crate) concurrency: usize,
    /// The size of their kernel receive buffers, if not the default.
    pub(crate) receive_buffer: Option<usize>,
    /// How long to wait without progress.
    pub(crate) patience: Duration,
}

/// How the joining went.
#[derive(Debug)]
pub(crate) struct Joined {
    /// From the connect to the `subscribed`, of the attempt that succeeded.
    pub(crate) latency: Latency,
    /// From the first connect to the last `subscribed`.
    pub(crate) wall: Duration,
    /// The position each joined at, for rooms that have one.
    pub(crate) cursors: Vec<Option<u64>>,
    /// The `subscribed` frame of the last to join.
    pub(crate) sample: Vec<u8>,
    /// How many were told that their cursor is of no use.
    pub(crate) resyncs: u64,
    /// Why connections had to try again, and how often.
    pub(crate) retries: BTreeMap<String, u64>,
}

struct Progress {
    joined: Joined,
    started: Vec<Instant>,
    attempts: Vec<u32>,
    is_in: Vec<bool>,
    later: Vec<(Instant, usize)>,
    in_flight: usize,
    done: usize,
    last: Instant,
    refusal: Option<String>,
    seq: Finder,
}

/// Connects and subscribes all of `crowd`; frames of any other kind, and of any other connection, go to
/// `other`.
///
/// # Errors
/// If the server refuses a room, if one connection fails too often, or if nothing moves.
pub(crate) fn join(
    pool: &mut Pool,
    crowd: &Crowd<'_>,
    mut other: impl FnMut(usize, Instant, Happened<'_>),
) -> Result<Joined> {
    let count = crowd.openings.len();
    let start = Instant::now();
    let mut progress = Progress::new(count, start);
    let mut next = 0;
    while progress.done < count {
        let now = Instant::now();
        let mut due: Vec<usize> =
            progress.later.extract_if(.., |(at, _)| *at <= now).map(|(_, index)| index).collect();
        let room = crowd.concurrency.saturating_sub(progress.in_flight + due.len());
        let fresh = next..count.min(next + room);
        next = fresh.end;
        due.extend(fresh);
        for index in due {
            progress.started[index] = Instant::now();
            progress.attempts[index] += 1;
            progress.in_flight += 1;
            let opening = crowd.openings[index].clone();
            pool.connect(crowd.first + index, crowd.address, crowd.receive_buffer, opening)?;
        }
        let mine = crowd.first..crowd.first + count;
        pool.turn(Duration::from_millis(50), |id, now, what| match what {
            what if !mine.contains(&id) => other(id, now, what),
            Happened::Text(text) if !progress.subscribed(id - crowd.first, now, text) => {
                other(id, now, Happened::Text(text));
            }
            Happened::Text(_) => {}
            Happened::Ended(end) => progress.ended(id - crowd.first, now, end.label()),
        })?;
        if let Some(refusal) = &progress.refusal {
            bail!("joining failed: {refusal}");
        }
        if progress.last.elapsed() > crowd.patience {
            bail!("only {} of {count} joined, then nothing moved", progress.done);
        }
    }
    progress.joined.wall = start.elapsed();
    Ok(progress.joined)
}

impl Progress {
    fn new(count: usize, start: Instant) -> Self {
        let joined = Joined {
            latency: Latency::new(),
            wall: Duration::ZERO,
            cursors: vec![None; count],
            sample: Vec::new(),
            resyncs: 0,
            retries: BTreeMap::new(),
        };
        Self {
            joined,
            started: vec![start; count],
            attempts: vec![0; count],
            is_in: vec![false; count],
            later: Vec::new(),
            in_flight: 0,
            done: 0,
            last: start,
            refusal: None,
            seq: Finder::new("\"seq\":"),
        }
    }

    /// Takes a frame if it belongs to the joining.
    fn subscribed(&mut self, index: usize, now: Instant, text: &[u8]) -> bool {
        if text.starts_with(br#"{"type":"connected""#) {
            return true;
        }
        let refused = text.starts_with(br#"{"type":"error""#);
        if self.is_in[index] || !(refused || text.starts_with(br#"{"type":"subscribed""#)) {
            return false;
        }
        if refused || scan::contains(text, "\"error\":") {
            self.refusal = Some(String::from_utf8_lossy(text).into_owned());
            return true;
        }
        self.is_in[index] = true;
        self.joined.latency.record(now - self.started[index]);
        self.joined.cursors[index] = self.seq.number(text);
        self.joined.resyncs += u64::from(scan::contains(text, "\"resync\":"));
        self.joined.sample.clear();
        self.joined.sample.extend_from_slice(text);
        self.in_flight -= 1;
        self.done += 1;
        self.last = now;
        true
    }

    fn ended(&mut self, index: usize, now: Instant, why: String) {
        if self.is_in[index] {
            self.refusal = Some(format!("a connection that had joined ended: {why}"));
            return;
        }
        self.in_flight -= 1;
        if self.attempts[index] == ATTEMPTS {
            self.refusal = Some(format!("a connection failed {ATTEMPTS} times, at last: {why}"));
        }
        self.later.push((now + BACK_OFF * self.attempts[index], index));
        *self.joined.retries.entry(why).or_default() += 1;
    }
}
