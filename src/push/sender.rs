//! Sends deliveries: claims, asks the provider, writes what it said. One for each provider and kind of
//! lane: critical pushes have senders of their own and are not gathered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::decide::Policy;
use super::provider::{Failure, FailureKind, Fate, Manners, PushProvider, RequestError};
use super::round::{Round, open};
use super::wake::Wake;
use crate::config::push::millis;
use crate::id::InstanceId;
use crate::protocol::notify::Lane;
use crate::store::push::{AMBIGUOUS, Claimed, Outcome, Report, Settlement};
use crate::store::{Store, StoreError};
use crate::telemetry::{Metrics, PushLane};

/// Pauses between attempts: the first and the longest, doubled in between.
const BACK_OFF: (i64, i64) = (1000, 300_000);
const BACK_OFF_CRITICAL: (i64, i64) = (500, 30_000);
/// How often what is held because of its own project's credentials is tried, until its time is over.
pub(super) const HELD_MS: i64 = 300_000;
/// How often a result is tried to be written while the store does not answer; the lease ends it anyway.
const WRITES: u32 = 5;

/// One provider's sender.
#[derive(Clone)]
pub struct Sender {
    pub(super) store: Store,
    pub(super) provider: Arc<dyn PushProvider>,
    pub(super) manners: Manners,
    pub(super) policy: Arc<Policy>,
    pub(super) instance: InstanceId,
    pub(super) metrics: Arc<Metrics>,
    pub(super) wake: Wake,
    pub(super) in_flight: Arc<Semaphore>,
}

impl Sender {
    /// Sends critical pushes, or the others, until told to stop; finishes what is under way.
    pub async fn run(self, critical: bool, stop: CancellationToken) {
        let lanes = if critical { &Lane::ALL[..1] } else { &Lane::ALL[..] };
        let linger = if critical { Duration::ZERO } else { self.policy.config.linger };
        let (mut bell, requests) = (self.wake.listen(), TaskTracker::new());
        while !stop.is_cancelled() {
            bell.mark_unchanged();
            let pause = match self.send_due(lanes, &requests, &stop).await {
                Ok(pause) => pause,
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "cannot look for pushes to send");
                    self.policy.config.poll
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = bell.changed() => sleep(linger).await,
                () = sleep(pause.min(self.policy.config.poll)) => {}
            }
        }
        requests.close();
        requests.wait().await;
    }

    /// Starts requests as long as there is something to send, it may be, and nobody says stop; returns when to
    /// look again.
    async fn send_due(
        &self,
        lanes: &'static [Lane],
        requests: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Duration, StoreError> {
        loop {
            let slot = stop.run_until_cancelled(self.in_flight.clone().acquire_owned()).await;
            let Some(Ok(slot)) = slot else {
                return Ok(self.policy.config.poll);
            };
            let lease = millis(self.policy.config.lease);
            let (name, gate) = (self.provider.name(), self.manners.gate);
            let owner = self.instance.to_string();
            let claimed = self.store.claim_deliveries(name, lanes, gate, lease, &owner).await?;
            if claimed.is_empty() {
                drop(slot);
                let Some(next) = self.store.next_delivery(name).await? else {
                    return Ok(self.policy.config.poll);
                };
                // Due and not to be had: the rate. A token comes every 1000 / rate ms.
                let token = (40_000 / i64::from(gate.rate.max(1))).clamp(5, 1000);
                let wait = if next > 0 { next } else { token };
                return Ok(Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
            }
            let (sender, stop) = (self.clone(), stop.clone());
            requests.spawn(async move {
                sender.deliver(claimed, &stop).await;
                sender.wake.ring();
                drop(slot);
            });
        }
    }

    /// Sends what was claimed, request by request, and writes what became of each before the next. A claim may
    /// take many, one after another (tokens of several projects, a message that spoils its request), so each
    /// begins with a whole lease for all that is left: no other worker takes what is still to be sent. What has not
    /// been when one of them fails, or when the instance is to stop, is given back.
    async fn deliver(&self, claimed: Vec<Claimed>, stop: &CancellationToken) {
        let mut round = Round::new(claimed);
        let mut part = round.parts.pop();
        while let Some(deliveries) = part {
            self.request(deliveries, &mut round).await;
            if stop.is_cancelled() {
                round.give_back("the instance stopped before it was sent");
            } else if round.outcomes.iter().any(|outcome| *outcome != Outcome::Answered) {
                // When the next may go, the gate says.
                round.give_back("the request before it failed");
            }
            // Otherwise the lease brings back what is left.
            if !self.write(&mut round).await || !self.renew(&mut round).await {
                return;
            }
            part = round.parts.pop();
        }
    }

    /// Writes what became of a request; whether the store answered.
    async fn write(&self, round: &mut Round) -> bool {
        let scopes = std::mem::take(&mut round.scopes);
        if !scopes.is_empty()
            && let Err(error) = self.store.scope_tokens(&scopes).await
        {
            tracing::warn!(%error, "cannot note which project push tokens belong to");
        }
        let (name, gate) = (self.provider.name(), self.manners.gate);
        let outcomes = std::mem::take(&mut round.outcomes);
        let settled = std::mem::take(&mut round.settled);
        let report = self.insist(|| self.store.settle(name, gate, &outcomes, &settled)).await;
        report.inspect(|report| self.count(report)).is_some()
    }

    /// Begins a new lease for what is left, and leaves out what is lost or too old; whether the store answered.
    async fn renew(&self, round: &mut Round) -> bool {
        let left: Vec<(i64, i64)> = round.parts.iter().flatten().map(|c| (c.id, c.fence)).collect();
        if left.is_empty() {
            return true;
        }
        let lease = millis(self.policy.config.lease);
        let held = self.insist(|| self.store.renew_deliveries(&left, lease)).await;
        let Some(held) = held else { return false };
        round.keep(held);
        true
    }

    /// Asks the store until it answers, for less than a lease.
    async fn insist<T, F>(&self, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = Duration::from_millis(50);
        for _ in 0..WRITES {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "what became of pushes waits for the store");
                    sleep(pause).await;
                    pause *= 3;
                }
            }
        }
        None
    }

    /// One request, and what its answer means for each of its deliveries.
    async fn request(&self, part: Vec<Claimed>, round: &mut Round) {
        let Some(content) = self.insist(|| self.store.content(&part)).await else {
            // Nobody knows what to say; nothing was sent.
            let error = "the store does not answer";
            let later = |claimed| self.again(claimed, error, false, Outcome::Answered, None);
            part.iter().for_each(|claimed| round.settle(claimed, later(claimed)));
            return;
        };
        let (envelopes, part) = open(&self.policy, &content, part, round);
        if part.is_empty() {
            return;
        }
        match self.provider.send(&envelopes).await {
            Ok(fates) => {
                round.outcomes.push(Outcome::Answered);
                let refused = fates.iter().filter_map(|fate| match fate {
                    Fate::Refused(failure) => Some(failure),
                    Fate::Accepted(_) => None,
                });
                note_held(&self.metrics, self.provider.name(), refused);
                for (claimed, fate) in part.iter().zip(fates) {
                    round.settle(claimed, self.fate(claimed, fate));
                }
            }
            Err(RequestError::Mixed(groups)) if part.len() > 1 => {
                round.outcomes.push(Outcome::Answered);
                round.regroup(part, &groups);
            }
            Err(RequestError::Invalid(_)) if part.len() > 1 => {
                round.outcomes.push(Outcome::Answered);
                round.halve(part);
            }
            Err(error @ (RequestError::Mixed(_) | RequestError::Invalid(_))) => {
                round.outcomes.push(Outcome::Answered);
                round.settle(&part[0], Settlement::Failed { error: error.reason() });
            }
            Err(error) => {
                tracing::warn!(provider = self.provider.name(), %error, "a push request failed");
                let outcomes = error.outcomes(self.manners.gate.open_ms);
                let ambiguous = matches!(error, RequestError::Broken { ambiguous: true, .. });
                let wait = outcomes.iter().find_map(|outcome| match outcome {
                    Outcome::Slower(ms) => Some(*ms),
                    _ => None,
                });
                for claimed in &part {
                    let fate =
                        self.again(claimed, &error.to_string(), ambiguous, outcomes[0], wait);
                    round.settle(claimed, fate);
                }
                round.outcomes.extend(outcomes);
            }
        }
    }

    fn fate(&self, claimed: &Claimed, fate: Fate) -> Settlement {
        match fate {
            Fate::Accepted(ticket) => {
                let ask_in = self.manners.receipts_after.first().map_or(0, |after| millis(*after));
                Settlement::Accepted { ticket, ask_in }
            }
            Fate::Refused(Failure { kind, code }) => match kind {
                FailureKind::DeadToken => Settlement::Dead { error: code },
                FailureKind::Permanent => Settlement::Failed { error: code },
                FailureKind::Transient => self.again(claimed, &code, false, Outcome::Broken, None),
                FailureKind::Credentials => {
                    self.again(claimed, &code, false, Outcome::Credentials, Some(HELD_MS))
                }
            },
        }
    }

    /// Another attempt, unless there were enough or nobody should get it twice. What is held back because of
    /// the rate or the credentials costs no attempt.
    fn again(
        &self,
        claimed: &Claimed,
        error: &str,
        ambiguous: bool,
        outcome: Outcome,
        wait: Option<i64>,
    ) -> Settlement {
        let error: String = error.chars().take(200).collect();
        let once = claimed
            .category
            .as_ref()
            .is_some_and(|c| self.policy.config.drop_ambiguous.contains(c));
        if ambiguous && once {
            return Settlement::Failed { error: AMBIGUOUS.into() };
        }
        let counts = outcome == Outcome::Broken;
        if counts && claimed.attempt >= i64::from(self.policy.config.attempts) {
            return Settlement::Failed { error };
        }
        let delay = match wait {
            Some(wait) => wait,
            None if outcome == Outcome::Credentials => 0,
            None => back_off(claimed.attempt, &claimed.lane, rand::random()),
        };
        Settlement::Retry { delay, error, ambiguous, counts }
    }

    fn count(&self, report: &Report) {
        let provider = self.provider.name();
        note(&self.metrics, provider, report);
        if report.opened {
            self.metrics.push_breakers_opened.inc();
            tracing::error!(
                provider,
                "pushes are held back: the provider fails or does not accept the \
                credentials; see `syncline push queue`"
            );
        }
    }
}

/// Counts and reports what a transaction brought to light.
pub(super) fn note(metrics: &Metrics, provider: &str, report: &Report) {
    for (lane, event, _) in &report.events {
        metrics.push_event(lane, event, provider);
    }
    for (lane, ms) in &report.latencies {
        #[allow(clippy::cast_precision_loss)]
        metrics.push_seconds(PushLane::read(lane)).observe(*ms as f64 / 1000.0);
    }
    if report.spike {
        metrics.push_spikes.inc();
        tracing::error!(
            provider,
            "so many push tokens are dead at once that none is disabled; is it \
            the right project?"
        );
    }
}

/// Counts and reports what is held because the credentials of its own project are at fault.
pub(super) fn note_held<'f>(
    metrics: &Metrics,
    provider: &str,
    refused: impl Iterator<Item = &'f Failure>,
) {
    let mut held = refused.filter(|failure| failure.kind == FailureKind::Credentials);
    let Some(Failure { code, .. }) = held.next() else { return };
    let count = 1 + held.count() as u64;
    metrics.push_misconfigured.inc_by(count);
    tracing::error!(
        provider,
        code,
        count,
        "pushes are held because the credentials of their own project are wrong, or their tokens belong to \
        another sender; others go on"
    );
}

/// Full jitter: anything up to the doubled pause, so that what failed together does not come back together.
/// `random` is from 0 to 1.
pub(super) fn back_off(attempt: i64, lane: &str, random: f64) -> i64 {
    let (first, longest) =
        if lane == Lane::Critical.as_str() { BACK_OFF_CRITICAL } else { BACK_OFF };
    let doubled = first.saturating_mul(1_i64 << (attempt - 1).clamp(0, 20));
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let pause = (doubled.min(longest) as f64 * random) as i64;
    pause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_critical_ones_are_shorter() {
        let longest = |lane: Lane| [1, 2, 3, 7, 9, 100].map(|n| back_off(n, lane.as_str(), 1.0));
        let usual = [1000, 2000, 4000, 64_000, 256_000, 300_000];
        assert_eq!((longest(Lane::Normal), longest(Lane::High)), (usual, usual));
        assert_eq!(longest(Lane::Critical), [500, 1000, 2000, 30_000, 30_000, 30_000]);
        // Anything below, so that what failed together is spread over all of it.
        assert_eq!(back_off(3, "normal", 0.0), 0);
        assert_eq!(back_off(3, "normal", 0.25), 1000);
    }
}
