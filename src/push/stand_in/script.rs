//! How the stand-in behaves, and what it remembers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::clock;

/// Messages remembered.
const REMEMBERED: usize = 200_000;

/// How the stand-in behaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Answer every request with a page that says 503.
    pub down: bool,
    /// The same for requests for receipts alone.
    pub receipts_down: bool,
    /// Ask for this access token.
    pub access_token: Option<String>,
    /// What the next requests to send meet, one each.
    pub next: VecDeque<Behaviour>,
    /// Errors in the tickets of tokens, e.g. `DeviceNotRegistered`.
    pub tickets: HashMap<String, String>,
    /// Errors in the receipts of tokens; `missing` is no receipt.
    pub receipts: HashMap<String, String>,
    /// How often a receipt is not ready before it is.
    pub receipt_delay: u32,
    /// The project of each token; those not named belong to one.
    pub projects: HashMap<String, String>,
    /// Tokens left out when it says which belong to which project.
    pub unnamed: Vec<String>,
    /// Tokens that spoil the request they are in.
    pub invalid: Vec<String>,
    /// Recipients a second; more are answered with 429. None is no limit.
    pub rate: Option<u32>,
}

/// What one request meets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Behaviour {
    /// It is answered with a status: 429 as JSON, others as a page.
    Status {
        /// The status.
        status: u16,
        /// Seconds to wait, as a header.
        #[serde(default)]
        retry_after: Option<u32>,
        /// As a date instead.
        #[serde(default)]
        dated: bool,
    },
    /// It is accepted, and answered with a page that says 504.
    AcceptThen504,
    /// It is accepted, and the connection breaks in the middle of the answer.
    AcceptThenReset,
    /// It is accepted, and a ticket is missing.
    WrongCount,
    /// It is answered with 200, and errors instead of data.
    ErrorsWithOk,
    /// It is answered with 200, and no JSON.
    NotJson,
    /// It is read, and not answered before it is released.
    Hang,
    /// It is answered as it should be.
    Behave,
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Requests of all kinds.
    pub requests: usize,
    /// Requests turned away.
    pub refused: usize,
    /// Messages accepted.
    pub accepted: usize,
    /// Requests whose body was compressed.
    pub compressed: usize,
    /// Requests whose body was larger than 1 KiB and not compressed.
    pub large_uncompressed: usize,
    /// Requests with too many recipients.
    pub too_large: usize,
    /// Requests whose tokens belonged to several projects.
    pub mixed: usize,
    /// Requests beyond the rate.
    pub over_rate: usize,
    /// Requests that were made to hang.
    pub hanging: usize,
    /// Receipts asked for.
    pub receipts_asked: usize,
    /// Recipients by second, since the Unix epoch.
    pub seconds: BTreeMap<i64, usize>,
}

/// An accepted message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// To whom.
    pub to: String,
    /// All of it.
    pub message: Value,
    /// When, in milliseconds since the Unix epoch.
    pub at: i64,
}

/// Everything the stand-in knows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) script: Script,
    pub(super) log: Log,
    pub(super) sent: VecDeque<Sent>,
    /// Lets a request that hangs go on.
    pub(super) release: Arc<Notify>,
    /// The token of each ticket, and how often its receipt was asked for.
    tickets: HashMap<String, (String, u32)>,
    bucket: Option<(i64, f64)>,
}

impl Script {
    pub(super) fn next_behaviour(&mut self) -> Option<Behaviour> {
        self.next.pop_front()
    }

    pub(super) fn is_invalid(&self, message: &Value) -> bool {
        message["to"].as_str().is_some_and(|to| self.invalid.iter().any(|token| token == to))
    }

    /// The tokens of each project.
    pub(super) fn projects_of(&self, tokens: &[String]) -> HashMap<String, Vec<String>> {
        let mut projects: HashMap<String, Vec<String>> = HashMap::new();
        for token in tokens {
            let project = self.projects.get(token).map_or("@default/app", String::as_str);
            projects.entry(project.to_owned()).or_default().push(token.clone());
        }
        projects
    }
}

impl Tally {
    /// Whether so many more are within the rate: a second's worth may come at once.
    pub(super) fn within_rate(&mut self, count: usize) -> bool {
        let now = clock::now_ms();
        if let Some(rate) = self.script.rate {
            let (at, left) = self.bucket.unwrap_or((now, f64::from(rate)));
            let passed = (now - at) as f64 / 1000.0;
            let left = (left + passed * f64::from(rate)).min(f64::from(rate));
            if left < count as f64 {
                self.log.over_rate += 1;
                self.bucket = Some((now, left));
                return false;
            }
            self.bucket = Some((now, left - count as f64));
        }
        *self.log.seconds.entry(now / 1000).or_default() += count;
        true
    }

    /// The ticket of a message.
    pub(super) fn accept(&mut self, token: &str, message: &Value) -> Value {
        if let Some(error) = self.script.tickets.get(token) {
            let details = json!({ "error": error, "expoPushToken": token });
            return json!({ "status": "error", "message": error, "details": details });
        }
        self.log.accepted += 1;
        let sent = Sent { to: token.to_owned(), message: message.clone(), at: clock::now_ms() };
        self.sent.push_back(sent);
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        let id = uuid::Uuid::now_v7().to_string();
        self.tickets.insert(id.clone(), (token.to_owned(), 0));
        json!({ "status": "ok", "id": id })
    }

    /// The receipt of a ticket; none if it is not ready.
    pub(super) fn receipt(&mut self, id: &str) -> Option<Value> {
        let (token, asked) = self.tickets.get_mut(id)?;
        *asked += 1;
        if *asked <= self.script.receipt_delay {
            return None;
        }
        match self.script.receipts.get(token).map(String::as_str) {
            Some("missing") => None,
            Some(error) => {
                Some(json!({ "status": "error", "message": error, "details": { "error": error } }))
            }
            None => Some(json!({ "status": "ok" })),
        }
    }
}
