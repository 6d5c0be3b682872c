//! Takes the pushes that come due and has them decided on; looks after what time does to the rest.
//!
//! Woken by what this process arms, and by the clock for the next that is due; polls for what other
//! instances arm.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::decide::Policy;
use super::wake::Wake;
use crate::config::push::millis;
use crate::fanout::Relay;
use crate::store::push::{Due, Reaped, View};
use crate::store::{Store, StoreError};
use crate::telemetry::{Label, Metrics, PushHold, PushState};

/// Pushes decided on in one transaction.
const BATCH: u32 = 500;
/// How often leases, expiry and breakers are looked at.
const TEND: Duration = Duration::from_secs(1);
/// How often idle tokens are disabled.
const DISABLE: Duration = Duration::from_secs(3600);
/// The shortest wait: what is due in less is due.
const SHORTEST: Duration = Duration::from_millis(2);

/// Decides on what is due.
#[derive(Clone)]
pub struct Dispatcher {
    pub(super) store: Store,
    pub(super) policy: Arc<Policy>,
    pub(super) relay: Arc<Relay>,
    pub(super) metrics: Arc<Metrics>,
    /// Rung when there is something to send.
    pub(super) wake: Wake,
}

impl Dispatcher {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let (mut tend_at, mut disable_at) = (Instant::now(), Instant::now() + TEND);
        loop {
            let pause = match self.dispatch_due(&stop).await {
                Ok(pause) => pause,
                Err(error) => {
                    self.metrics.store_errors.inc();
                    tracing::warn!(%error, "cannot look for due pushes");
                    self.policy.config.poll
                }
            };
            let now = Instant::now();
            if now >= tend_at {
                tend_at = now + TEND;
                self.report(self.tend().await, "cannot look after the push queue");
            }
            if now >= disable_at {
                disable_at = now + DISABLE;
                self.report(self.disable_idle().await, "cannot disable idle push tokens");
            }
            let pause = pause.clamp(SHORTEST, self.policy.config.poll.max(SHORTEST));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.store.armed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn report(&self, result: Result<(), StoreError>, what: &str) {
        if let Err(error) = result {
            self.metrics.store_errors.inc();
            tracing::warn!(%error, "{what}");
        }
    }

    /// Decides on everything due, unless told to stop; returns how long nothing more is.
    async fn dispatch_due(&self, stop: &CancellationToken) -> Result<Duration, StoreError> {
        while !stop.is_cancelled() {
            let decide = |view: &View| self.policy.decide(view);
            let (view, decided) = self.store.dispatch(BATCH, &decide).await?;
            for (_, state, _) in &decided.ended {
                self.metrics.push_intents.of(PushState::read(state)).inc();
            }
            for due in view.due.iter().filter(|due| announced(&decided.announced, due)) {
                self.relay.announce(due, view.now);
            }
            if !decided.deliveries.is_empty() {
                self.wake.ring();
            }
            if view.due.len() < BATCH as usize && decided.announced.is_empty() {
                break;
            }
        }
        let next = self.store.next_due().await?;
        Ok(next.map_or(Duration::MAX, |ms| {
            Duration::from_millis(u64::try_from(ms).unwrap_or(0)).max(SHORTEST)
        }))
    }

    async fn tend(&self) -> Result<(), StoreError> {
        let Reaped { returned, ended } =
            self.store.reap_deliveries(&self.policy.config.drop_ambiguous).await?;
        for (lane, event, provider) in &ended {
            self.metrics.push_event(lane, event, provider);
        }
        if returned > 0 {
            tracing::warn!(returned, "took pushes back from a worker that fell silent");
            self.wake.ring();
        }
        let mut held = [false; PushHold::COUNT];
        for provider in self.policy.providers.iter() {
            let (gate, now) = self.store.gate(provider.name()).await?;
            // One whose time is over and that has nothing to try with holds nothing back.
            let open = gate.reopens(now).is_some();
            held[PushHold::Breaker.index()] |= open && !gate.credentials;
            held[PushHold::Credentials.index()] |= open && gate.credentials;
            held[PushHold::DeadTokens.index()] |= gate.suspicious_until > now;
        }
        for reason in PushHold::all() {
            self.metrics.push_held.of(reason).set(held[reason.index()].into());
        }
        self.metrics.push_tends.inc();
        Ok(())
    }

    async fn disable_idle(&self) -> Result<(), StoreError> {
        let idle = self.policy.config.token_idle;
        let idle = self.store.disable_idle_devices(millis(idle)).await?;
        if idle > 0 {
            tracing::info!(idle, "disabled push tokens that were not used for long");
        }
        Ok(())
    }
}

fn announced(announced: &[(i64, i64)], due: &Due) -> bool {
    announced.iter().any(|(id, _)| *id == due.id)
}
