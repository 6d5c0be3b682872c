//! Asks providers what became of what they accepted.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::provider::{Failure, FailureKind, Manners, PushProvider, Receipt};
use super::sender::{HELD_MS, note, note_held};
use crate::config;
use crate::config::push::millis;
use crate::store::push::{Awaiting, ReceiptVerdict};
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
            match self.ask_due().await {
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

    async fn ask_due(&self) -> Result<usize, StoreError> {
        let (name, gate) = (self.provider.name(), self.manners.gate);
        let (open, now) = self.store.gate(name).await?;
        if open.reopens(now).is_some() {
            return Ok(0);
        }
        let lease = millis(self.config.lease);
        let due = self.store.claim_receipts(name, self.manners.receipts, lease).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let tickets: Vec<String> = due.iter().map(|awaiting| awaiting.ticket.clone()).collect();
        let (outcomes, verdicts) = match self.provider.receipts(&tickets).await {
            Ok(receipts) => {
                let verdict = |awaiting: &Awaiting| {
                    (awaiting.id, self.verdict(awaiting, receipts.get(&awaiting.ticket)))
                };
                let failed = receipts.values().filter_map(|receipt| match receipt {
                    Receipt::Failed(failure) => Some(failure),
                    Receipt::Handed => None,
                });
                note_held(&self.metrics, name, failed);
                (Vec::new(), due.iter().map(verdict).collect())
            }
            Err(error) => {
                tracing::warn!(provider = name, %error, "a request for receipts failed");
                // The lease brings them back.
                (error.outcomes(gate.open_ms), Vec::new())
            }
        };
        let report = self.store.settle_receipts(name, gate, &outcomes, &verdicts).await?;
        note(&self.metrics, name, &report);
        Ok(due.len())
    }

    fn verdict(&self, awaiting: &Awaiting, receipt: Option<&Receipt>) -> ReceiptVerdict {
        match receipt {
            Some(Receipt::Handed) => ReceiptVerdict::Handed,
            Some(Receipt::Failed(Failure { kind, code })) => match kind {
                FailureKind::DeadToken => ReceiptVerdict::Dead(code.clone()),
                FailureKind::Permanent => ReceiptVerdict::Failed(code.clone()),
                FailureKind::Transient if awaiting.attempt >= i64::from(self.config.attempts) => {
                    ReceiptVerdict::Failed(code.clone())
                }
                FailureKind::Transient => ReceiptVerdict::Retry(1000, code.clone()),
                FailureKind::Credentials => ReceiptVerdict::Retry(HELD_MS, code.clone()),
            },
            None => {
                let steps = &self.manners.receipts_after;
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
}
