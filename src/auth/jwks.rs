//! Key sets (RFC 7517) that live elsewhere: a file that is read again when it changes, or a URL that is
//! fetched again before its keys grow old.
//!
//! [`super::Authenticator`] owns the sources and runs each one's loop. Invariants: a source that fails
//! keeps its old keys; a new document replaces all keys of its source; strangers cannot make the hub
//! fetch more often than once per [`Timing::throttle`] and source, whatever tokens they invent.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keys::Key;
use super::token::Verifier;
use crate::config;

/// Bytes of one document.
const MAX_BYTES: usize = 1 << 20;

/// Keys in one document: each may have to be tried for a token that names none.
const MAX_KEYS: usize = 64;

/// Time one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The intervals sources keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Between two refreshes asked for by unknown keys.
    pub(super) throttle: Duration,
    /// The shortest wait after a failure.
    pub(super) back_off_min: Duration,
    /// The longest wait after many.
    pub(super) back_off_max: Duration,
    /// Between two looks at a file.
    pub(super) poll: Duration,
    /// How long a token waits for a refresh.
    pub(super) patience: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            throttle: Duration::from_secs(10),
            back_off_min: Duration::from_secs(1),
            back_off_max: Duration::from_secs(60),
            poll: Duration::from_secs(5),
            patience: Duration::from_secs(3),
        }
    }
}

/// Why a document could not be had. Never names the URL, which may carry a credential.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("it cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("it cannot be fetched: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the answer was {0}")]
    Status(reqwest::StatusCode),
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is not a key set: {0}")]
    NotAKeySet(#[from] serde_json::Error),
    #[error("it has more than {MAX_KEYS} keys")]
    TooManyKeys,
    #[error("it could not be read: the reader stopped")]
    Stopped,
}

/// What tells one version of a file from the next.
type Stamp = (SystemTime, u64);

#[derive(Debug)]
enum Origin {
    File { path: PathBuf, seen: Mutex<Option<Stamp>> },
    Url { url: reqwest::Url, client: reqwest::Client },
}

#[derive(Debug, Default)]
struct Demand {
    /// A refresh is asked for or under way; whoever needs one waits for it.
    pending: bool,
    /// When an unknown key last asked for one.
    asked: Option<Instant>,
}

/// One configured key set.
#[derive(Debug)]
pub(super) struct Source {
    index: usize,
    origin: Origin,
    refresh: Duration,
    timing: Timing,
    demand: Mutex<Demand>,
    wanted: Notify,
    finished: watch::Sender<()>,
}

impl Source {
    /// A source as configured; what is wrong with it, with its path in the configuration.
    pub(super) fn new(index: usize, cfg: &config::Jwks, timing: Timing) -> Result<Self, String> {
        let at = |field: &str, problem: String| format!("auth.jwks[{index}]{field}: {problem}");
        let origin = match (cfg.file.as_os_str().is_empty(), cfg.url.is_empty()) {
            (false, true) => Origin::File { path: cfg.file.clone(), seen: Mutex::default() },
            (true, false) => url_origin(&cfg.url).map_err(|problem| at(".url", problem))?,
            _ => return Err(at("", "set either `file` or `url`".into())),
        };
        if cfg.refresh < Duration::from_secs(1) {
            return Err(at(".refresh", "must be at least 1 s".into()));
        }
        Ok(Self {
            index,
            origin,
            refresh: cfg.refresh,
            timing,
            demand: Mutex::default(),
            wanted: Notify::new(),
            finished: watch::Sender::new(()),
        })
    }

    /// Reads a file at once, so that a broken one is a problem of the configuration. A URL begins with no
    /// keys and waits for [`run`](Self::run): whoever serves it may start after the hub.
    pub(super) fn first_keys(&self) -> Result<Vec<Key>, String> {
        let Origin::File { path, seen } = &self.origin else { return Ok(Vec::new()) };
        let read = read_file(path, None).map_err(|error| {
            format!("auth.jwks[{}].file: {}: {error}", self.index, path.display())
        })?;
        let (stamp, keys) = read.unzip();
        *lock(seen) = stamp;
        Ok(keys.unwrap_or_default())
    }

    /// Asks for a refresh. What comes back changes when it is over; nothing, if strangers asked too often.
    pub(super) fn demand(&self) -> Option<watch::Receiver<()>> {
        let mut demand = lock(&self.demand);
        if !demand.pending {
            if demand.asked.is_some_and(|asked| asked.elapsed() < self.timing.throttle) {
                return None;
            }
            demand.asked = Some(Instant::now());
            demand.pending = true;
            self.wanted.notify_one();
        }
        // Under the lock: the end of the refresh cannot slip by before the subscription.
        Some(self.finished.subscribe())
    }

    /// Keeps the keys of this source fresh until the shutdown.
    pub(super) async fn run(&self, verifier: &Verifier, shutdown: &CancellationToken) {
        let mut failures = 0;
        let mut wait = match self.origin {
            Origin::File { .. } => self.timing.poll,
            Origin::Url { .. } => Duration::ZERO,
        };
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                () = self.wanted.notified() => {}
            }
            lock(&self.demand).pending = true;
            let loaded = tokio::select! {
                () = shutdown.cancelled() => return,
                loaded = self.load() => loaded,
            };
            match loaded {
                Ok(keys) => {
                    failures = 0;
                    if let Some(keys) = keys {
                        verifier.set_source(self.index, keys);
                    }
                }
                Err(error) => {
                    failures += 1;
                    let source = self.index;
                    tracing::warn!(source, failures, %error, "key set not refreshed, old keys stay");
                }
            }
            wait = self.wait(failures);
            let mut demand = lock(&self.demand);
            demand.pending = false;
            self.finished.send_replace(());
        }
    }

    fn wait(&self, failures: u32) -> Duration {
        match (&self.origin, failures) {
            (Origin::File { .. }, 0) => self.timing.poll,
            (Origin::Url { .. }, 0) => self.refresh,
            _ => back_off(failures, self.timing, rand::random()),
        }
    }

    /// The keys as they are now; nothing if they are known to be the same.
    async fn load(&self) -> Result<Option<Vec<Key>>, LoadError> {
        match &self.origin {
            Origin::Url { url, client } => fetch(client, url.clone()).await.map(Some),
            Origin::File { path, seen } => {
                let (path, last) = (path.clone(), *lock(seen));
                let read = tokio::task::spawn_blocking(move || read_file(&path, last));
                let Some((stamp, keys)) = read.await.map_err(|_| LoadError::Stopped)?? else {
                    return Ok(None);
                };
                *lock(seen) = Some(stamp);
                Ok(Some(keys))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After failure number `failures`, from `back_off_min` to twice as much each time, up to `back_off_max`;
/// `random` in 0..1 spreads instances that failed together.
fn back_off(failures: u32, timing: Timing, random: f64) -> Duration {
    let doubled = timing.back_off_min.saturating_mul(1 << failures.min(16));
    let top = doubled.min(timing.back_off_max);
    timing.back_off_min + top.saturating_sub(timing.back_off_min).mul_f64(random)
}

fn url_origin(text: &str) -> Result<Origin, String> {
    let url: reqwest::Url = text.parse().map_err(|_| "must be a URL".to_owned())?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        _ => return Err("must begin with https:// unless its host is this machine".into()),
    }
    let builder = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none());
    // What stays on this machine has no business with a proxy.
    let builder = if loopback { builder.no_proxy() } else { builder.https_only(true) };
    let client = builder.build().map_err(|error| format!("no HTTP client: {error}"))?;
    Ok(Origin::Url { url, client })
}

async fn fetch(client: &reqwest::Client, url: reqwest::Url) -> Result<Vec<Key>, LoadError> {
    let get = async {
        let mut response = client.get(url).send().await?;
        if !response.status().is_success() {
            return Err(LoadError::Status(response.status()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if document.len() + chunk.len() > MAX_BYTES {
                return Err(LoadError::TooLarge);
            }
            document.extend_from_slice(&chunk);
        }
        parse(&document)
    };
    get.await.map_err(|error| match error {
        LoadError::Http(error) => LoadError::Http(error.without_url()),
        other => other,
    })
}

fn read_file(path: &Path, last: Option<Stamp>) -> Result<Option<(Stamp, Vec<Key>)>, LoadError> {
    // The stamp is taken first: a change after it is seen next time.
    let about = std::fs::metadata(path)?;
    let stamp = (about.modified()?, about.len());
    if last == Some(stamp) {
        return Ok(None);
    }
    if stamp.1 > MAX_BYTES as u64 {
        return Err(LoadError::TooLarge);
    }
    Ok(Some((stamp, parse(&std::fs::read(path)?)?)))
}

/// The usable keys of a document; the others are named in the log and left out.
fn parse(document: &[u8]) -> Result<Vec<Key>, LoadError> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<Value>,
    }
    let Document { keys } = serde_json::from_slice(document)?;
    if keys.len() > MAX_KEYS {
        return Err(LoadError::TooManyKeys);
    }
    let offered = keys.len();
    let usable: Vec<Key> = keys
        .into_iter()
        .enumerate()
        .filter_map(|(i, key)| {
            serde_json::from_value::<Jwk>(key)
                .map_err(|_| "it is not well formed".to_owned())
                .and_then(|jwk| Key::from_jwk(&jwk))
                .map_err(|reason| tracing::info!(key = i, reason, "key of a key set left out"))
                .ok()
        })
        .collect();
    if usable.is_empty() {
        tracing::warn!(offered, "a key set has no usable key");
    }
    Ok(usable)
}

#[cfg(test)]
mod tests;
