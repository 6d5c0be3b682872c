//! The seam to those who reach a device: what every provider is given, and what it may answer.
//!
//! Workers know this and nothing of Expo, FCM, APNs or Web Push. `docs/PUSH.md` says how each maps.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::config::push::millis;
use crate::protocol::notify::Lane;
use crate::store::push::{GateSettings, Outcome};

/// What a person's device is to show, without a word about how it gets there. Kept in the queue as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The notification; a device shows each once.
    pub nid: String,
    /// The user.
    pub user: String,
    /// The project.
    pub project: String,
    /// The change it is about.
    pub seq: i64,
    /// How urgent.
    pub lane: Lane,
    /// The title.
    pub title: String,
    /// The text.
    pub body: String,
    /// What the person has not read.
    pub badge: i64,
    /// A deep link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Data for the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Map<String, serde_json::Value>>,
    /// What kind it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// What replaces what on the device: at most 64 bytes.
    pub collapse: String,
    /// The device's number and a signature, for the app to report back with.
    pub report: String,
}

/// A message on its way to one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The token; empty for a provider that needs none.
    pub token: String,
    /// How long it is of use.
    pub ttl: Duration,
    /// What to show.
    pub message: Message,
}

/// What became of one envelope of a request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Taken, under a ticket to ask for the receipt with; none if there is no receipt.
    Accepted(Option<String>),
    /// Not taken.
    Refused(Failure),
}

/// Why a message did not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What to do about it.
    pub kind: FailureKind,
    /// The provider's own word for it.
    pub code: String,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The token reaches nobody any more.
    DeadToken,
    /// Try again later.
    Transient,
    /// The credentials of the token's own project are at fault, or it belongs to another sender: hold this
    /// one until an operator has mended that. It says nothing about anybody else's.
    Credentials,
    /// It never will get through.
    Permanent,
}

/// Why a whole request did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No answer, or one that cannot be understood, or one that says the provider is broken. If it is
    /// `ambiguous`, the messages may have been taken.
    #[error("the provider is broken: {what}")]
    Broken {
        /// What happened.
        what: String,
        /// Whether the messages may have been taken.
        ambiguous: bool,
        /// How long it asks to wait, if it says so.
        wait: Option<Duration>,
    },
    /// Too much at once, and how long it asks to wait.
    #[error("the provider asks to slow down")]
    Slower(Option<Duration>),
    /// Our credentials are not accepted.
    #[error("the provider does not accept the credentials: {0}")]
    Credentials(String),
    /// The tokens belong to several of the provider's projects; nothing was sent. Project and tokens.
    #[error("the tokens belong to several projects")]
    Mixed(HashMap<String, Vec<String>>),
    /// The provider refuses the request as it is. One of its messages may be at fault.
    #[error("the provider refuses the request: {0}")]
    Invalid(String),
}

/// The shortest and the longest time that is waited because a provider asks for it, in milliseconds.
const WAIT_MS: (i64, i64) = (100, 300_000);

impl RequestError {
    /// What it means for the gate, what happened first: whoever asks to wait is waited for, `open_ms` if it does not
    /// say how long.
    pub(super) fn outcomes(&self, open_ms: i64) -> Vec<Outcome> {
        let slower = |ms: i64| Outcome::Slower(ms.clamp(WAIT_MS.0, WAIT_MS.1));
        match self {
            Self::Broken { wait: Some(wait), .. } => vec![Outcome::Broken, slower(millis(*wait))],
            Self::Broken { wait: None, .. } => vec![Outcome::Broken],
            Self::Slower(wait) => vec![slower(wait.map_or(open_ms, millis))],
            Self::Credentials(_) => vec![Outcome::Credentials],
            Self::Mixed(_) | Self::Invalid(_) => vec![Outcome::Answered],
        }
    }

    /// The provider's own word for it, if it has one.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Broken { what, .. } | Self::Credentials(what) | Self::Invalid(what) => {
                what.clone()
            }
            Self::Slower(_) | Self::Mixed(_) => self.to_string(),
        }
    }
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// Handed over to the device's platform.
    Handed,
    /// It did not get there.
    Failed(Failure),
}

/// How a provider likes to be used.
#[derive(Debug, Clone)]
pub struct Manners {
    /// Its rate and breakers.
    pub gate: GateSettings,
    /// Requests of one instance under way at once.
    pub in_flight: u32,
    /// Receipts asked for at once.
    pub receipts: u32,
    /// How long after it was accepted a push's receipts are asked for, one after another.
    pub receipts_after: Vec<Duration>,
}

/// Somebody who reaches devices.
pub trait PushProvider: fmt::Debug + Send + Sync {
    /// Its name, in the store and in metrics.
    fn name(&self) -> &'static str;

    /// How it likes to be used.
    fn manners(&self) -> Manners;

    /// Whether a token can be one of its own.
    ///
    /// # Errors
    /// What a token looks like.
    fn check(&self, token: &str) -> Result<(), &'static str>;

    /// Sends envelopes, at most a batch of them; one fate each, in their order.
    fn send<'a>(
        &'a self,
        envelopes: &'a [Envelope],
    ) -> BoxFuture<'a, Result<Vec<Fate>, RequestError>>;

    /// Asks what became of tickets. What is missing in the answer is not known yet.
    fn receipts<'a>(
        &'a self,
        tickets: &'a [String],
    ) -> BoxFuture<'a, Result<HashMap<String, Receipt>, RequestError>>;
}

/// The providers of this hub.
pub type Providers = Arc<[Arc<dyn PushProvider>]>;
