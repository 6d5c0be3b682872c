//! Asks providers what became of what they accepted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::provider::{Failure, FailureKind, Manners, PushProvider, Receipt, RequestError};
use super::sender::{HELD_MS, back_off, note, note_held};
use crate::config;
use crate::config::push::millis;
use crate::store::push::{Awaiting, Outcome, ReceiptVerdict};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// Asks for one provider's receipts.
pub struct Receipts {
    pub(super) store: Store,
    pub(super) provider: Arc<dyn PushProvider>,
    pub(super) manners: Manners,
    pub(super) config: config::Push,
    pub(super) metrics: Arc<Metrics>,
}

impl Receipts {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.ask_due(&stop).await {
                Ok(asked) if asked == self.manners.receipts as usize => continue,
                Ok(_) => {}
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "cannot look for due receipts");
                }
            }
            stop.run_until_cancelled(sleep(self.config.poll)).await;
        }
    }

    /// Asks for what is due, as much as one request holds; returns how many that were.
    async fn ask_due(&self, stop: &CancellationToken) -> Result<usize, StoreError> {
        let (name, gate) = (self.provider.name(), self.manners.gate);
        let gate = gate.of_receipts(self.manners.receipts);
        let lease = millis(self.config.lease);
        let due = self.store.claim_receipts(name, gate, lease).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let (count, mut parts) = (due.len(), vec![due]);
        while let Some(part) = parts.pop() {
            let (outcomes, verdicts) = self.ask(part, &mut parts).await;
            let report = self.store.settle_receipts(name, gate, &outcomes, &verdicts).await?;
            note(&self.metrics, name, &report);
            if report.opened {
                tracing::error!(
                    provider = name,
                    "receipts are not asked for: the provider fails or does not accept the credentials"
                );
            }
            // The lease brings back what is left.
            let troubled = outcomes.iter().any(|outcome| *outcome != Outcome::Answered);
            if troubled || stop.is_cancelled() {
                break;
            }
        }
        Ok(count)
    }

    /// One request: how it ended, and what became of its deliveries. What has to be asked for
    /// again at once is added to `parts`.
    async fn ask(
        &self,
        mut part: Vec<Awaiting>,
        parts: &mut Vec<Vec<Awaiting>>,
    ) -> (Vec<Outcome>, Vec<(i64, ReceiptVerdict)>) {
        let (name, gate) = (self.provider.name(), self.manners.gate);
        let steps = &self.manners.receipts_after;
        let tickets: Vec<String> = part.iter().map(|awaiting| awaiting.ticket.clone()).collect();
        match self.provider.receipts(&tickets).await {
            Ok(receipts) => {
                let failed = receipts.values().filter_map(|receipt| match receipt {
                    Receipt::Failed(failure) => Some(failure),
                    Receipt::Handed => None,
                });
                note_held(&self.metrics, name, failed);
                let judge = |awaiting: &Awaiting| {
                    let receipt = receipts.get(&awaiting.ticket);
                    let attempts = self.config.attempts;
                    (awaiting.id, verdict(awaiting, receipt, steps, attempts, rand::random()))
                };
                (vec![Outcome::Answered], part.iter().map(judge).collect())
            }
            Err(RequestError::Invalid(_)) if part.len() > 1 => {
                // One of them is at fault: halve until it stands alone.
                let right = part.split_off(part.len() / 2);
                parts.extend([part, right]);
                (vec![Outcome::Answered], Vec::new())
            }
            Err(error) => {
                tracing::warn!(provider = name, %error, "a request for receipts failed");
                let outcomes = error.outcomes(gate.open_ms);
                let refused = outcomes == [Outcome::Answered];
                let missing = part.iter().filter(|awaiting| refused || is_over(awaiting, steps));
                let missing = missing.map(|awaiting| (awaiting.id, ReceiptVerdict::Missing));
                (outcomes, missing.collect())
            }
        }
    }
}

/// Whether a receipt that could not be had is not worth asking for again: once the last time to ask is over by as
/// much as the first took.
fn is_over(awaiting: &Awaiting, steps: &[Duration]) -> bool {
    let (first, last) = (steps.first(), steps.last());
    let end = first.zip(last).map_or(0, |(first, last)| millis(*first + *last));
    awaiting.age >= end
}

/// What a receipt means for its delivery. `random` is from 0 to 1.
fn verdict(
    awaiting: &Awaiting,
    receipt: Option<&Receipt>,
    steps: &[Duration],
    attempts: u32,
    random: f64,
) -> ReceiptVerdict {
    match receipt {
        Some(Receipt::Handed) => ReceiptVerdict::Handed,
        Some(Receipt::Failed(Failure { kind, code })) => match kind {
            FailureKind::DeadToken => ReceiptVerdict::Dead(code.clone()),
            FailureKind::Permanent => ReceiptVerdict::Failed(code.clone()),
            FailureKind::Transient if awaiting.attempt >= i64::from(attempts) => {
                ReceiptVerdict::Failed(code.clone())
            }
            FailureKind::Transient => {
                let pause = back_off(awaiting.attempt, &awaiting.lane, random);
                ReceiptVerdict::Retry { delay: pause, error: code.clone(), counts: true }
            }
            FailureKind::Credentials => {
                ReceiptVerdict::Retry { delay: HELD_MS, error: code.clone(), counts: false }
            }
        },
        None => {
            let at = usize::try_from(awaiting.asked).unwrap_or(usize::MAX);
            match (steps.get(at), steps.get(at.saturating_add(1))) {
                (Some(this), Some(next)) => {
                    ReceiptVerdict::NotReady(millis(next.saturating_sub(*this)))
                }
                _ => ReceiptVerdict::Missing,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receipt_asks_to_send_again_comes_back_with_jitter_and_ever_later() {
        let failure = Failure { kind: FailureKind::Transient, code: "ProviderError".into() };
        let receipt = Receipt::Failed(failure);
        let pause = |attempt, lane: &str, random| {
            let awaiting = Awaiting { attempt, lane: lane.into(), ..Awaiting::default() };
            match verdict(&awaiting, Some(&receipt), &[], 8, random) {
                ReceiptVerdict::Retry { delay, counts: true, .. } => Some(delay),
                _ => None,
            }
        };
        assert_eq!([1, 2, 5].map(|n| pause(n, "high", 1.0)), [1000, 2000, 16_000].map(Some));
        assert_eq!((pause(5, "high", 0.25), pause(5, "critical", 1.0)), (Some(4000), Some(8000)));
        assert_eq!(pause(8, "high", 1.0), None, "that was the last attempt");
    }
}
