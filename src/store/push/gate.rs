//! What may be sent to a provider now: the rate, the breakers and the guard against a spike of dead
//! tokens. Pure; kept in the store as one row per provider, changed under its lock, so that all instances
//! share it. Times are milliseconds by the database's clock.

use serde::{Deserialize, Serialize};

/// Failed requests in a row that open the breaker.
const IN_A_ROW: u32 = 5;
/// Requests within [`WINDOW_MS`] of which half have to fail to open it.
const ENOUGH: u32 = 20;
const WINDOW_MS: i64 = 30_000;
/// The breaker is never open for longer.
const LONGEST_MS: i64 = 300_000;
/// The part of the burst that is kept for critical pushes.
const RESERVE: f64 = 0.2;
/// Seconds of the rate that may be sent at once.
const BURST_S: f64 = 0.4;
/// The guard looks at this long, needs so many outcomes, and trips above this share of dead tokens.
const DEAD_WINDOW_MS: i64 = 600_000;
const DEAD_ENOUGH: u32 = 50;
const DEAD_SHARE: f64 = 0.2;

/// What a gate is configured with.
#[derive(Debug, Clone, Copy)]
pub struct GateSettings {
    /// Notifications a second.
    pub rate: u32,
    /// The fewest that may go at once: a whole request.
    pub batch: u32,
    /// How long an opened breaker stays open the first time, in milliseconds.
    pub open_ms: i64,
}

impl GateSettings {
    /// Of the gate for receipts: nothing bounds their rate, and a request is of as many as `receipts`.
    #[must_use]
    pub fn of_receipts(self, receipts: u32) -> Self {
        Self { rate: u32::MAX, batch: receipts, ..self }
    }
}

/// The name of the gate for a provider's receipts. What cannot be asked says nothing of what can be sent.
#[must_use]
pub fn receipts_gate(provider: &str) -> String {
    format!("{provider} receipts")
}

/// How a request ended, for the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The provider answered as it should.
    Answered,
    /// No answer, or one that says it is broken.
    Broken,
    /// It asks to wait so many milliseconds.
    Slower(i64),
    /// It does not believe our credentials.
    Credentials,
}

/// What a provider said of tokens: with its tickets at once, or with receipts, long after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Whether it takes a push.
    Ticket,
    /// What became of it.
    Receipt,
}

/// How many tokens were alive or dead in a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
struct Toll {
    since: i64,
    outcomes: u32,
    dead: u32,
}

impl Toll {
    /// Counts, in a new window if the last is over. Returns whether so many died that it cannot be true.
    fn count(&mut self, now: i64, outcomes: u32, dead: u32) -> bool {
        if now.saturating_sub(self.since) > DEAD_WINDOW_MS {
            *self = Self { since: now, ..Self::default() };
        }
        self.outcomes = self.outcomes.saturating_add(outcomes);
        self.dead = self.dead.saturating_add(dead);
        let share = f64::from(self.dead) / f64::from(self.outcomes.max(1));
        self.outcomes >= DEAD_ENOUGH && share > DEAD_SHARE
    }
}

/// The shared state of one provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Gate {
    /// What may be sent at once, at `at`.
    tokens: f64,
    at: i64,
    /// Requests that failed in a row.
    in_a_row: u32,
    window_at: i64,
    window: u32,
    window_failed: u32,
    /// Nothing but a probe goes before; 0 is closed.
    pub open_until: i64,
    open_for: i64,
    /// A probe is on its way.
    probing: bool,
    /// Whether the credentials are at fault.
    pub credentials: bool,
    tickets: Toll,
    receipts: Toll,
    /// Until then dead tokens are only suspected.
    pub suspicious_until: i64,
}

impl Gate {
    /// How many may be sent now; if a breaker is open, one request as a probe once its time is over, and
    /// then none until it was answered or given up.
    pub fn admit(&mut self, now: i64, critical: bool, want: u32, s: GateSettings) -> u32 {
        if self.open_until > now {
            return 0;
        }
        self.refill(now, s);
        let reserve = if critical { 0.0 } else { RESERVE * self.burst(s) };
        let allowed = (self.tokens - reserve).floor().clamp(0.0, f64::from(want));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let allowed = allowed as u32;
        if allowed > 0 && self.open_until > 0 {
            // The probe: the next one only if this one says nothing for as long as the breaker was open.
            self.open_until = now.saturating_add(self.open_for.max(s.open_ms));
            self.probing = true;
        }
        allowed
    }

    /// Takes what was sent from what may be.
    pub fn charge(&mut self, count: usize) {
        self.tokens -= count as f64;
    }

    /// Whether a breaker is open, or only a probe is on its way.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_until > 0
    }

    /// When something may go again, if nothing may now.
    #[must_use]
    pub fn reopens(&self, now: i64) -> Option<i64> {
        (self.open_until > now).then_some(self.open_until)
    }

    fn burst(&self, s: GateSettings) -> f64 {
        (f64::from(s.rate) * BURST_S).max(f64::from(s.batch) / (1.0 - RESERVE))
    }

    fn refill(&mut self, now: i64, s: GateSettings) {
        let burst = self.burst(s);
        if self.at == 0 {
            self.tokens = burst;
        } else {
            let passed = now.saturating_sub(self.at).max(0) as f64 / 1000.0;
            self.tokens = (self.tokens + passed * f64::from(s.rate)).min(burst);
        }
        self.at = now;
    }

    /// Notes how a request ended. Returns whether a breaker has just opened.
    pub fn ended(&mut self, now: i64, outcome: Outcome, s: GateSettings) -> bool {
        let was_open = self.open_until > 0;
        match outcome {
            Outcome::Answered => {
                self.count(now, false);
                self.in_a_row = 0;
                // What was on its way when it opened says nothing about now.
                if self.probing {
                    self.close();
                }
                false
            }
            Outcome::Slower(ms) => {
                self.tokens = self.tokens.min(0.0);
                self.open_until = self.open_until.max(now.saturating_add(ms.clamp(0, LONGEST_MS)));
                self.open_for = self.open_for.max(s.open_ms);
                self.probing = false;
                false
            }
            Outcome::Credentials => {
                self.probing = false;
                self.open_for = LONGEST_MS.min(s.open_ms.saturating_mul(6));
                self.open_until = now.saturating_add(self.open_for);
                // That is news even of one that was held for another reason.
                !std::mem::replace(&mut self.credentials, true)
            }
            Outcome::Broken => {
                self.count(now, true);
                self.in_a_row += 1;
                let half = self.window >= ENOUGH && self.window_failed * 2 >= self.window;
                let opens = !was_open && (self.in_a_row >= IN_A_ROW || half);
                if !opens && !self.probing {
                    return false;
                }
                self.probing = false;
                self.open_for = match self.open_for {
                    0 => s.open_ms,
                    before => before.saturating_mul(2).min(LONGEST_MS),
                };
                self.open_until = now.saturating_add(self.open_for);
                !was_open
            }
        }
    }

    /// Closes the breakers, as an operator does who has mended something.
    pub fn close(&mut self) {
        (self.open_until, self.open_for, self.credentials, self.probing) = (0, 0, false, false);
        (self.in_a_row, self.window, self.window_failed) = (0, 0, 0);
    }

    fn count(&mut self, now: i64, failed: bool) {
        if now.saturating_sub(self.window_at) > WINDOW_MS {
            (self.window_at, self.window, self.window_failed) = (now, 0, 0);
        }
        self.window += 1;
        self.window_failed += u32::from(failed);
    }

    /// Counts what the provider said of tokens. Returns whether dead ones may be disabled; `tripped` if
    /// so many died that something else must be wrong. Receipts are measured by receipts: what was accepted is
    /// long out of its window when they come.
    pub fn judge(&mut self, now: i64, word: Word, outcomes: u32, dead: u32) -> DeadTokens {
        let toll = match word {
            Word::Ticket => &mut self.tickets,
            Word::Receipt => &mut self.receipts,
        };
        let too_many = toll.count(now, outcomes, dead);
        let since = toll.since;
        let suspicious = self.suspicious_until > now;
        if too_many {
            self.suspicious_until = now.saturating_add(DEAD_WINDOW_MS);
        }
        let tripped = too_many && !suspicious;
        DeadTokens { since, suspicious: suspicious || too_many, tripped }
    }
}

/// What to make of dead tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadTokens {
    /// Since when they are counted.
    pub since: i64,
    /// They are suspected only, not disabled.
    pub suspicious: bool,
    /// That is new.
    pub tripped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: GateSettings = GateSettings { rate: 500, batch: 100, open_ms: 10_000 };

    /// What goes out over some seconds if everybody takes what they can every `step` milliseconds.
    fn drain(gate: &mut Gate, from: i64, seconds: i64, step: i64, critical: bool) -> u32 {
        let mut sent = 0;
        for now in (from..from + seconds * 1000).step_by(usize::try_from(step).unwrap()) {
            let allowed = gate.admit(now, critical, 100, S);
            gate.charge(allowed as usize);
            sent += allowed;
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_and_used() {
        let mut gate = Gate::default();
        drain(&mut gate, 1000, 1, 10, false);
        let sent = drain(&mut gate, 2000, 60, 10, false);
        assert!((29_900..=30_000).contains(&sent), "{sent} in 60 s at 500/s");
    }

    #[test]
    fn some_of_the_burst_is_always_left_for_critical_ones() {
        let mut gate = Gate::default();
        drain(&mut gate, 1000, 5, 10, false);
        while gate.admit(6000, false, 100, S) > 0 {
            gate.charge(1);
        }
        assert!(gate.admit(6000, true, 100, S) >= 40, "a fifth of 200");
    }

    #[test]
    fn failures_open_the_breaker_and_one_probe_closes_it() {
        let mut gate = Gate::default();
        for n in 1..=5 {
            assert_eq!(gate.ended(1000, Outcome::Broken, S), n == 5);
        }
        assert_eq!(gate.admit(10_999, true, 100, S), 0);
        assert_eq!(gate.admit(11_000, false, 100, S), 100, "the probe");
        assert_eq!(gate.admit(11_001, true, 100, S), 0, "one probe only");
        assert!(!gate.ended(11_500, Outcome::Broken, S), "it was open");
        assert_eq!(gate.open_until, 31_500, "twice as long");
        assert!(gate.admit(31_500, false, 100, S) > 0);
        gate.ended(31_600, Outcome::Answered, S);
        assert!(gate.admit(31_601, false, 100, S) > 0);
        assert_eq!(gate.reopens(31_601), None);
    }

    #[test]
    fn a_late_answer_does_not_end_the_wait_that_was_asked_for() {
        let mut gate = Gate::default();
        gate.ended(0, Outcome::Slower(5000), S);
        gate.ended(10, Outcome::Answered, S);
        assert_eq!(gate.admit(4999, true, 1, S), 0);
        assert_eq!(gate.admit(5000, true, 1, S), 1);
    }

    #[test]
    fn a_silent_probe_is_followed_by_another() {
        let mut gate = Gate::default();
        (0..5).for_each(|_| {
            gate.ended(0, Outcome::Broken, S);
        });
        assert!(gate.admit(10_000, false, 1, S) == 1 && gate.admit(19_999, false, 1, S) == 0);
        assert_eq!(gate.admit(20_000, false, 1, S), 1);
    }

    #[test]
    fn half_of_the_requests_failing_opens_it_too() {
        let mut gate = Gate::default();
        let mut opened = false;
        for n in 0..20 {
            let outcome = if n % 2 == 1 { Outcome::Broken } else { Outcome::Answered };
            opened |= gate.ended(1000 + n, outcome, S);
        }
        assert!(opened);
    }

    #[test]
    fn wrong_credentials_hold_everything_until_they_are_right() {
        let mut gate = Gate::default();
        gate.ended(0, Outcome::Slower(5), S);
        assert!(gate.ended(0, Outcome::Credentials, S), "whatever held it before");
        assert!(!gate.ended(0, Outcome::Credentials, S), "told once");
        assert!(gate.credentials && gate.admit(59_999, true, 1, S) == 0);
        assert_eq!(gate.admit(60_000, true, 1, S), 1);
        gate.close();
        assert!(!gate.credentials && gate.admit(60_001, true, 1, S) == 1);
    }

    #[test]
    fn a_spike_of_dead_tokens_is_not_believed() {
        let mut gate = Gate::default();
        let tickets = |gate: &mut Gate, now, all, dead| gate.judge(now, Word::Ticket, all, dead);
        assert!(!tickets(&mut gate, 0, 49, 49).suspicious, "too few to tell");
        let spike = tickets(&mut gate, 10, 1, 0);
        assert!(spike.suspicious && spike.tripped);
        assert!(!tickets(&mut gate, 20, 1, 1).tripped, "told once");
        let mut calm = Gate::default();
        assert!(!tickets(&mut calm, 0, 1000, 150).suspicious);
        assert!(tickets(&mut gate, 500_000, 1, 1).suspicious);
        assert!(!tickets(&mut gate, 1_200_021, 1, 1).suspicious, "it is over");
    }

    #[test]
    fn receipts_are_measured_by_receipts() {
        let mut gate = Gate::default();
        let now = 2 * DEAD_WINDOW_MS;
        assert!(!gate.judge(now, Word::Ticket, 1000, 0).suspicious);
        assert!(!gate.judge(now + 10, Word::Receipt, 49, 10).suspicious, "too few to tell");
        let spike = gate.judge(now + 20, Word::Receipt, 1, 1);
        assert!(
            spike.tripped && spike.since == now + 10,
            "more than a fifth, however many were accepted"
        );
        assert!(gate.judge(now + 30, Word::Ticket, 1, 1).suspicious, "whoever says so");
    }
}
