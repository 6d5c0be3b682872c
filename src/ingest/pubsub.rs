//! The channel: best effort. What is published while no instance listens, or the store does not answer,
//! is lost; what is heard is applied by one of those who hear it.
//!
//! Every instance hears every message, and claims it in Redis before it works on it. If the claim cannot
//! be made, the event's id decides in the store.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::Value;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::event::{CONTENT_WINDOW_MS, content, content_id};
use super::{Authorized, Failed, Ingest};
use crate::bus::queue::{Receiver, Sender, queue};
use crate::bus::{self, BusError};
use crate::clock;
use crate::config::{self, Config};
use crate::telemetry::{IngestOutcome, IngestWay};

/// Bytes heard that may wait to be applied.
const INBOX: usize = 16 << 20;
/// How long the work on an event with an id is claimed.
const HOLD: Duration = Duration::from_secs(10);
/// Between attempts to subscribe: the first pause, doubled up to the other.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often the link is asked for a sign of life, and how long it has.
const PROBE: Duration = Duration::from_secs(5);
/// Digits of a signature.
const DIGITS: usize = 64;

/// This instance's ear on the channel.
pub struct Listener {
    bus: config::Bus,
    channel: String,
    batch: usize,
    ingest: Ingest,
}

/// An event, and what its work is claimed under.
struct Heard {
    event: Authorized,
    claim: String,
    hold: Duration,
}

impl Listener {
    /// A listener to the configured channel.
    #[must_use]
    pub fn new(config: &Config, ingest: Ingest) -> Self {
        Self {
            bus: config.bus.clone(),
            channel: config.ingest.channel.clone(),
            batch: config.ingest.batch.min(config.store.queue_ops).max(1),
            ingest,
        }
    }

    /// Listens until told to stop, then applies what was heard.
    pub async fn run(self, stop: CancellationToken) {
        let (inbox, heard) = queue(INBOX);
        let listening = async {
            stop.run_until_cancelled(self.listen(&inbox)).await;
            drop(inbox);
        };
        tokio::join!(listening, self.work(heard));
    }

    /// Subscribes, again and again.
    async fn listen(&self, inbox: &Sender<Vec<u8>>) {
        let mut pause = PAUSE.0;
        loop {
            match self.hear(inbox, &mut pause).await {
                Ok(()) => tracing::warn!("the ingest channel's link is lost"),
                Err(error) => tracing::warn!(%error, "the ingest channel cannot be subscribed"),
            }
            sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Hears messages until the link is lost.
    async fn hear(&self, inbox: &Sender<Vec<u8>>, pause: &mut Duration) -> Result<(), BusError> {
        let (mut sink, mut messages) = bus::listen(&self.bus, &self.channel).await?;
        *pause = PAUSE.0;
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    let raw = message.get_payload_bytes();
                    if !inbox.push(raw.to_vec(), raw.len()) {
                        self.ingest.failed(IngestWay::PubSub, IngestOutcome::Lost);
                    }
                }
                _ = probe.tick() => {
                    let alive = timeout(bus::RESPONSE_TIMEOUT, sink.ping::<Value>()).await;
                    if !matches!(alive, Ok(Ok(_))) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Applies what is heard, as much at once as waits.
    async fn work(&self, mut heard: Receiver<Vec<u8>>) {
        while let Some(first) = heard.recv().await {
            let mut raws = vec![first];
            while raws.len() < self.batch
                && let Some(raw) = heard.try_recv()
            {
                raws.push(raw);
            }
            let now_ms = clock::now_ms();
            let events = raws.iter().filter_map(|raw| self.read(raw, now_ms)).collect();
            self.apply(events).await;
        }
    }

    fn read(&self, raw: &[u8], now_ms: i64) -> Option<Heard> {
        let (sig, raw) = split(raw);
        match self.ingest.read(raw, sig) {
            Ok(event) => {
                let (claim, hold) = match &event.event.id {
                    Some(id) => (format!("heard:{id}"), HOLD),
                    None => {
                        let window = Duration::from_millis(CONTENT_WINDOW_MS.unsigned_abs());
                        (format!("heard:{}", content(raw)), window)
                    }
                };
                let event = event.or_id(|| content_id(raw, now_ms));
                Some(Heard { event, claim, hold })
            }
            Err(failed) => {
                self.refused(&failed);
                None
            }
        }
    }

    async fn apply(&self, heard: Vec<Heard>) {
        let claims = heard
            .iter()
            .map(|heard| self.ingest.claim(&heard.event.event.project, &heard.claim, heard.hold));
        // Who cannot ask goes on: the id decides.
        let mine: Vec<bool> =
            join_all(claims).await.into_iter().map(|claim| claim.unwrap_or(true)).collect();
        let mine: Vec<Heard> =
            heard.into_iter().zip(mine).filter_map(|(heard, mine)| mine.then_some(heard)).collect();
        let events: Vec<_> = mine.iter().map(|heard| heard.event.clone()).collect();
        let fates = self.ingest.apply(IngestWay::PubSub, &events).await;
        for (heard, fate) in mine.iter().zip(fates) {
            let Err(failed) = fate else { continue };
            self.refused(&failed);
            if matches!(failed, Failed::NotNow(_)) {
                // The backend may publish it again.
                self.ingest.give_back(&heard.event.event.project, &heard.claim).await;
            }
        }
    }

    fn refused(&self, failed: &Failed) {
        let outcome = match failed {
            Failed::Unfit { code, .. } => {
                tracing::warn!(code, "an event on the ingest channel cannot be applied");
                IngestOutcome::Refused
            }
            Failed::NotNow(refusal) => {
                let code = refusal.code.as_str();
                tracing::error!(code, "an event on the ingest channel is lost");
                IngestOutcome::Lost
            }
        };
        self.ingest.failed(IngestWay::PubSub, outcome);
    }
}

/// A message as its signature, if it begins with one (`{64 hexadecimal digits}.`), and the event.
fn split(message: &[u8]) -> (Option<&str>, &[u8]) {
    match message.split_at_checked(DIGITS) {
        Some((digits, [b'.', event @ ..])) if digits.iter().all(u8::is_ascii_hexdigit) => {
            (std::str::from_utf8(digits).ok(), event)
        }
        _ => (None, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_told_from_an_event() {
        let digits = "0f".repeat(32);
        let signed = format!("{digits}.{{}}");
        assert_eq!(split(signed.as_bytes()), (Some(&*digits), &b"{}"[..]));
        let short = format!("{}.{{}}", &digits[2..]);
        assert_eq!(split(short.as_bytes()), (None, short.as_bytes()));
        assert_eq!(split(b"{}"), (None, &b"{}"[..]));
        assert_eq!(split(b""), (None, &b""[..]));
    }
}
