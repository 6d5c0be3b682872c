//! Counts what became of operations, for the metrics.

use crate::protocol::op::Outcome;
use crate::store::Answer;
use crate::telemetry::{Metrics, Rejection, WriteOutcome};

/// Counts one answer.
pub(super) fn count(metrics: &Metrics, answer: &Answer) {
    let Answer::New(given) = answer else {
        metrics.writes.of(WriteOutcome::Replayed).inc();
        return;
    };
    metrics.writes.of(given.outcome.into()).inc();
    if given.outcome == Outcome::Rejected {
        let code = given.code.as_deref().unwrap_or_default();
        metrics.rejections.of(Rejection::from_code(code)).inc();
    }
    if given.again {
        metrics.retries.of(given.outcome.into()).inc();
    }
}
