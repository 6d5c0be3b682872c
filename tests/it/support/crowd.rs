//! A crowd of clients that reads and writes while everything around it breaks, and what must be true of
//! it afterwards.
//!
//! A reader counts the stream as it comes: it panics at the first hole or repetition. A writer sends each
//! operation until it has a verdict, under the same `op_id`. [`Crowd::verify`] compares both with the
//! log.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use syncline::store::LogEntry;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::DEADLINE;
use super::client::{Client, End};
use super::hub::token;

/// The project everyone is in.
pub(crate) const PROJECT: &str = "p";
/// Entities that many write to.
const HOT: u64 = 4;
/// A type of entity that viewers may not read; see [`hide_payroll`].
const HIDDEN: &str = "payroll";

/// The seed of a run: printed, so that a run that failed can be run again.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("SYNCLINE_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    println!("run again with SYNCLINE_TEST_SEED={seed}");
    seed
}

/// Whether the long run was asked for.
pub(crate) fn full() -> bool {
    std::env::var("SYNCLINE_TEST_FULL").is_ok_and(|full| full == "1")
}

/// Keeps one type of entity from viewers, so that they have something to pass over.
pub(crate) fn hide_payroll(config: &mut syncline::config::Config) {
    config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
}

/// The log as it stands when nobody writes any more; readers end when they have all of it.
type Goal = watch::Receiver<Option<Arc<Vec<LogEntry>>>>;

/// Readers and writers of one project.
pub(crate) struct Crowd {
    urls: Arc<[String]>,
    random: SmallRng,
    goal: watch::Sender<Option<Arc<Vec<LogEntry>>>>,
    readers: JoinSet<Reader>,
    writers: JoinSet<Writer>,
    decided: Vec<Decided>,
}

impl Crowd {
    /// Nobody yet.
    pub(crate) fn new(urls: Arc<[String]>, seed: u64) -> Self {
        Self {
            urls,
            random: SmallRng::seed_from_u64(seed),
            goal: watch::Sender::new(None),
            readers: JoinSet::new(),
            writers: JoinSet::new(),
            decided: Vec::new(),
        }
    }

    /// Adds a reader of the project's room, or of an entity's room.
    pub(crate) fn read(&mut self, role: &str, entity: Option<u64>, mood: Mood) {
        let name = format!("reader {} ({role}, {entity:?}, {mood:?})", self.readers.len());
        let reader = Reader {
            token: token(&format!("reader-{}", self.readers.len()), &json!({ PROJECT: role })),
            name,
            urls: self.urls.clone(),
            sees_all: role != "viewer",
            entity: entity.map(hot),
            mood,
            random: SmallRng::seed_from_u64(self.random.random()),
            cursor: 0,
            leaving: false,
            got: Vec::new(),
            passed: Vec::new(),
            connects: 0,
        };
        self.readers.spawn(reader.run(self.goal.subscribe()));
    }

    /// The readers every run has: calm and restless ones, of everything, of a part, of one entity.
    pub(crate) fn read_all_ways(&mut self) {
        for mood in [Mood::Calm, Mood::Restless] {
            self.read("editor", None, mood);
            self.read("editor", None, mood);
            self.read("viewer", None, mood);
            self.read("editor", Some(0), mood);
        }
        self.read("editor", None, Mood::Restless);
        self.read("viewer", Some(1), Mood::Restless);
    }

    /// Adds a writer of so many operations, who rests up to `rest` between two requests.
    pub(crate) fn write(&mut self, ops: usize, rest: Duration) {
        let number = self.writers.len();
        let writer = Writer {
            name: format!("writer-{number}"),
            token: token(&format!("writer-{number}"), &json!({ PROJECT: "editor" })),
            urls: self.urls.clone(),
            random: SmallRng::seed_from_u64(self.random.random()),
            ops,
            rest,
            made: 0,
            asked: 0,
            versions: HashMap::new(),
            client: None,
            decided: Vec::new(),
        };
        self.writers.spawn(writer.run());
    }

    /// Waits until every operation has its verdict.
    pub(crate) async fn written(&mut self) {
        while let Some(writer) = self.writers.join_next().await {
            self.decided.extend(writer.unwrap().decided);
        }
    }

    /// Writes one more operation, through one instance.
    pub(crate) async fn write_last(&mut self, url: &str) {
        let mut client = Client::connect(url, &token("last", &json!({ PROJECT: "editor" }))).await;
        let op = json!({ "op_id": "last", "kind": "create", "type": "task", "id": "last" });
        let verdict = client.write(PROJECT, json!([op])).await.remove(0);
        self.decided.push(Decided { op_id: "last".into(), verdict: verdict.to_string() });
    }

    /// Waits until all readers have the whole log, and compares what they and the writers saw with it.
    pub(crate) async fn verify(mut self, log: Vec<LogEntry>) {
        let log = Arc::new(log);
        for (at, entry) in log.iter().enumerate() {
            assert_eq!(entry.seq.0, at as u64 + 1, "the log is not dense");
        }
        self.goal.send_replace(Some(log.clone()));
        let mut connects = 0;
        while let Some(reader) = self.readers.join_next().await {
            let reader = reader.unwrap();
            reader.verify(&log);
            connects += reader.connects;
        }
        verify_verdicts(&self.decided, &log);
        println!(
            "{} changes of {} operations, {connects} connections of readers",
            log.len(),
            self.decided.len()
        );
    }
}

fn verify_verdicts(decided: &[Decided], log: &[LogEntry]) {
    let mut logged = HashSet::new();
    for entry in log {
        assert!(logged.insert(entry.op_id.as_str()), "{} is in the log twice", entry.op_id);
    }
    let mut applied = 0;
    let mut answered = HashSet::new();
    for Decided { op_id, verdict } in decided {
        assert!(answered.insert(op_id), "{op_id} was decided twice");
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        assert_eq!(verdict["op_id"], *op_id);
        match verdict["outcome"].as_str().unwrap() {
            "applied" | "merged" => {
                let seq = verdict["seq"].as_u64().unwrap();
                let entry = usize::try_from(seq - 1).ok().and_then(|at| log.get(at));
                let found = entry.map(|entry| entry.op_id.as_str());
                assert_eq!(
                    found,
                    Some(op_id.as_str()),
                    "acknowledged, but not in the log: {verdict}"
                );
                applied += 1;
            }
            // An edit of what its writer knows to be deleted is rejected.
            "superseded" | "noop" | "rejected" => {
                assert!(!logged.contains(op_id.as_str()), "{verdict}")
            }
            _ => panic!("not a verdict to expect: {verdict}"),
        }
    }
    assert_eq!(applied, log.len(), "some changes belong to no verdict");
}

fn hot(number: u64) -> String {
    format!("hot-{number}")
}

/// How a reader behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Stays where it is as long as it can.
    Calm,
    /// Leaves, comes back elsewhere, joins other rooms, stops reading for a while.
    Restless,
}

struct Reader {
    name: String,
    urls: Arc<[String]>,
    token: String,
    sees_all: bool,
    /// The one entity it reads; the whole project otherwise.
    entity: Option<String>,
    mood: Mood,
    random: SmallRng,
    cursor: u64,
    /// It left its rooms and was not told so yet.
    leaving: bool,
    /// The changes received: position and operation.
    got: Vec<(u64, String)>,
    /// The positions passed over by `advance`.
    passed: Vec<u64>,
    connects: usize,
}

/// What a reader does next.
enum Next {
    Read,
    Subscribe,
    Reconnect { after: Duration, in_order: bool },
    Rest,
}

impl Reader {
    async fn run(mut self, mut goal: Goal) -> Self {
        loop {
            let url = self.urls.choose(&mut self.random).unwrap().clone();
            let Ok(mut client) = Client::open(&url, Some(&self.token)).await else {
                sleep(Duration::from_millis(self.random.random_range(20..200))).await;
                continue;
            };
            self.connects += 1;
            let Some((pause, in_order)) = self.follow(&mut client, &mut goal).await else {
                return self;
            };
            if in_order {
                client.close().await;
            } else {
                drop(client);
            }
            sleep(pause).await;
        }
    }

    /// Reads until it has everything (`None`), or is to connect again.
    async fn follow(&mut self, client: &mut Client, goal: &mut Goal) -> Option<(Duration, bool)> {
        let mut next = Next::Subscribe;
        self.leaving = false;
        let mut whim = self.next_whim();
        let given_up = match *goal.borrow() {
            Some(_) => Instant::now() + DEADLINE,
            None => Instant::now() + Duration::from_secs(86_400),
        };
        loop {
            match next {
                Next::Read => {}
                Next::Rest => sleep(Duration::from_millis(300)).await,
                Next::Reconnect { after, in_order } => return Some((after, in_order)),
                // If it cannot be sent, reading tells why.
                Next::Subscribe => drop(client.try_send(&self.subscription()).await),
            }
            if self.has_all(goal) {
                return None;
            }
            next = tokio::select! {
                frame = client.read() => match frame {
                    Ok(frame) => self.take(&frame),
                    Err(end) => self.ended(&end),
                },
                () = sleep_until(whim) => {
                    whim = self.next_whim();
                    self.follow_whim(client).await
                }
                changed = goal.changed() => {
                    changed.expect("the crowd lives as long as its readers");
                    Next::Reconnect { after: Duration::ZERO, in_order: false }
                }
                () = sleep_until(given_up) => {
                    let head = goal.borrow().as_ref().map_or(0, |log| log.len());
                    panic!("{} is at {} and gets no further; the head is {head}", self.name, self.cursor)
                }
            };
        }
    }

    fn has_all(&self, goal: &Goal) -> bool {
        let goal = goal.borrow();
        let Some(log) = &*goal else { return false };
        let mine = log.iter().rev().find(|entry| self.concerns(entry));
        mine.is_none_or(|last| last.seq.0 == self.cursor)
    }

    /// Whether the stream tells of this change, at least as passed over.
    fn concerns(&self, entry: &LogEntry) -> bool {
        self.entity.as_ref().is_none_or(|id| entry.entity.id.as_str() == id)
    }

    fn project_room() -> String {
        format!("project:{PROJECT}")
    }

    fn entity_room(id: &str) -> String {
        format!("entity:{PROJECT}:task:{id}")
    }

    /// The room, from where this reader is; now and then with a room inside it.
    fn subscription(&mut self) -> String {
        let mut rooms = vec![match &self.entity {
            Some(id) => Self::entity_room(id),
            None => Self::project_room(),
        }];
        if self.mood == Mood::Restless && self.entity.is_none() {
            let inside = Self::entity_room(&hot(self.random.random_range(0..HOT)));
            rooms.insert(self.random.random_range(0..2), inside);
        }
        let since = self.cursor;
        let rooms: Vec<_> =
            rooms.into_iter().map(|room| json!({ "room": room, "since": since })).collect();
        json!({ "type": "subscribe", "id": "subscribe", "rooms": rooms }).to_string()
    }

    fn take(&mut self, frame: &Value) -> Next {
        match frame["type"].as_str().unwrap() {
            "change" => self.take_change(frame),
            "advance" => {
                let seq = frame["seq"].as_u64().unwrap();
                assert!(seq > self.cursor, "{}: {frame} after {}", self.name, self.cursor);
                self.passed.extend(self.cursor + 1..=seq);
                self.cursor = seq;
            }
            "subscribed" => {
                for room in frame["rooms"].as_array().unwrap() {
                    if room["error"]["code"] == "unavailable" {
                        return Next::Reconnect {
                            after: Duration::from_millis(200),
                            in_order: false,
                        };
                    }
                    assert_eq!(room["recovered"], true, "{}: {frame}", self.name);
                }
            }
            "unsubscribed" => {
                self.leaving = false;
                return Next::Subscribe;
            }
            "goodbye" => {
                let after = Duration::from_millis(frame["reconnect_in_ms"].as_u64().unwrap());
                return Next::Reconnect { after, in_order: true };
            }
            "resync" | "gone" | "error" => panic!("{}: {frame}", self.name),
            _ => {}
        }
        Next::Read
    }

    fn take_change(&mut self, frame: &Value) {
        let seq = frame["seq"].as_u64().unwrap();
        // One entity's changes are a chain; a whole project's are counted.
        let (before, what) = match self.entity {
            Some(_) => (frame["prev"].as_u64().unwrap(), "the one before"),
            None => (seq - 1, "counting"),
        };
        assert_eq!(before, self.cursor, "{}: a hole or a repetition by {what}: {frame}", self.name);
        self.cursor = seq;
        self.got.push((seq, frame["op_id"].as_str().unwrap().to_owned()));
    }

    fn ended(&mut self, end: &End) -> Next {
        if let End::Closed(code) = end {
            assert!((4000..4100).contains(code), "{}: closed with {code}", self.name);
        }
        let after = Duration::from_millis(self.random.random_range(0..200));
        Next::Reconnect { after, in_order: false }
    }

    fn next_whim(&mut self) -> Instant {
        let ms = match self.mood {
            Mood::Calm => 86_400_000,
            Mood::Restless => self.random.random_range(30..800),
        };
        Instant::now() + Duration::from_millis(ms)
    }

    async fn follow_whim(&mut self, client: &mut Client) -> Next {
        let after = Duration::from_millis(self.random.random_range(0..300));
        match self.random.random_range(0..4) {
            0 => Next::Reconnect { after, in_order: false },
            1 => Next::Reconnect { after, in_order: true },
            2 => Next::Rest,
            // Two answers would mean two subscriptions, and the second would repeat what the first brings.
            _ if self.leaving => Next::Read,
            _ => {
                self.leaving = true;
                let mut rooms: Vec<_> = (0..HOT).map(|n| Self::entity_room(&hot(n))).collect();
                rooms.push(Self::project_room());
                let leave = json!({ "type": "unsubscribe", "id": "leave", "rooms": rooms });
                let _reading_tells = client.try_send(&leave.to_string()).await;
                Next::Read
            }
        }
    }

    fn verify(&self, log: &[LogEntry]) {
        let mine = log.iter().filter(|entry| self.concerns(entry));
        let (readable, hidden): (Vec<_>, Vec<_>) =
            mine.partition(|entry| self.sees_all || entry.entity.kind.as_str() != HIDDEN);
        let readable: Vec<_> =
            readable.iter().map(|entry| (entry.seq.0, entry.op_id.to_string())).collect();
        assert!(self.got == readable, "{}: the stream differs from the log", self.name);
        if self.entity.is_none() {
            let hidden: Vec<_> = hidden.iter().map(|entry| entry.seq.0).collect();
            assert_eq!(self.passed, hidden, "{}", self.name);
        }
    }
}

/// An operation and the one verdict it has, as it was sent.
struct Decided {
    op_id: String,
    verdict: String,
}

struct Writer {
    name: String,
    urls: Arc<[String]>,
    token: String,
    random: SmallRng,
    /// Operations still to make.
    ops: usize,
    rest: Duration,
    made: usize,
    asked: u64,
    /// The versions of the entities many write to, as far as known.
    versions: HashMap<String, u64>,
    client: Option<Client>,
    decided: Vec<Decided>,
}

/// What a writer looks at in a frame.
#[derive(Deserialize)]
struct Answer<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    verdicts: Option<Vec<&'a RawValue>>,
    code: Option<&'a str>,
    #[serde(default)]
    retry_after_ms: u64,
    #[serde(default)]
    reconnect_in_ms: u64,
}

impl Writer {
    async fn run(mut self) -> Self {
        while self.ops > 0 {
            let count = self.random.random_range(1..=12).min(self.ops);
            self.ops -= count;
            let ops: Vec<_> = (0..count).map(|_| self.make()).collect();
            let verdicts = self.write(&ops).await;
            if self.random.random_ratio(1, 10) {
                self.client = None;
                assert_eq!(self.write(&ops).await, verdicts, "a retry was answered otherwise");
            }
            for verdict in verdicts {
                self.learn(verdict);
            }
            sleep(self.rest.mul_f64(self.random.random())).await;
        }
        self
    }

    fn make(&mut self) -> String {
        self.made += 1;
        let op_id = format!("{}-{}", self.name, self.made);
        let n = self.made;
        let kind = if self.random.random_ratio(1, 20) { HIDDEN } else { "task" };
        if self.random.random_ratio(4, 5) {
            return json!({ "op_id": op_id, "kind": "create", "type": kind, "id": op_id, "fields": { "n": n } })
                .to_string();
        }
        let id = hot(self.random.random_range(0..HOT));
        let base = self.versions.get(&id).copied().unwrap_or(0);
        let kind = match base {
            0 => "create",
            _ if self.random.random_ratio(1, 20) => "delete",
            _ => "update",
        };
        let mut op =
            json!({ "op_id": op_id, "kind": kind, "type": "task", "id": id, "base": base });
        if kind != "delete" {
            op["fields"] = json!({ "by": self.name, "n": n });
        }
        op.to_string()
    }

    fn learn(&mut self, text: String) {
        let verdict: Value = serde_json::from_str(&text).unwrap();
        let id = verdict["id"].as_str().unwrap();
        if let Some(version) =
            verdict["current"]["version"].as_u64().or(verdict["version"].as_u64())
            && id.starts_with("hot-")
        {
            // What was deleted is created again, on top of its tombstone.
            self.versions.insert(id.to_owned(), version);
        }
        let op_id = verdict["op_id"].as_str().unwrap().to_owned();
        self.decided.push(Decided { op_id, verdict: text });
    }

    /// Sends operations until they are decided.
    async fn write(&mut self, ops: &[String]) -> Vec<String> {
        let ops = ops.join(",");
        loop {
            let client = match &mut self.client {
                Some(client) => client,
                none => {
                    let url = self.urls.choose(&mut self.random).unwrap();
                    let Ok(mut client) = Client::open(url, Some(&self.token)).await else {
                        sleep(Duration::from_millis(self.random.random_range(20..200))).await;
                        continue;
                    };
                    let connect = json!({ "type": "connect", "client": self.name });
                    let _the_answer_tells = client.try_send(&connect.to_string()).await;
                    none.insert(client)
                }
            };
            self.asked += 1;
            let id = self.asked;
            let request =
                format!(r#"{{"type":"write","id":{id},"project":"{PROJECT}","ops":[{ops}]}}"#);
            let _the_answer_tells = client.try_send(&request).await;
            match timeout(DEADLINE, answer(client, id)).await.expect("a write is answered") {
                Ok(verdicts) => return verdicts,
                Err(Retry { after, reconnect }) => {
                    if reconnect {
                        self.client = None;
                    }
                    sleep(after).await;
                }
            }
        }
    }
}

struct Retry {
    after: Duration,
    reconnect: bool,
}

async fn answer(client: &mut Client, id: u64) -> Result<Vec<String>, Retry> {
    let mut after = Duration::from_millis(20);
    loop {
        let text = match client.read_text().await {
            Ok(text) => text,
            Err(End::Closed(code)) if !(4000..4100).contains(&code) => panic!("closed with {code}"),
            Err(_) => return Err(Retry { after, reconnect: true }),
        };
        let answer: Answer<'_> = serde_json::from_str(&text).unwrap();
        after = after.max(Duration::from_millis(answer.reconnect_in_ms));
        if answer.id != Some(id) {
            continue;
        }
        match (answer.verdicts, answer.code) {
            (Some(verdicts), _) => {
                return Ok(verdicts.into_iter().map(|verdict| verdict.get().to_owned()).collect());
            }
            (None, Some("unavailable" | "overloaded" | "rate_limited")) => {
                let after = Duration::from_millis(answer.retry_after_ms);
                return Err(Retry { after, reconnect: false });
            }
            _ => panic!("not an answer to expect: {text}"),
        }
    }
}
