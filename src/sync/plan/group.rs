//! Operations that take effect together or not at all.
//!
//! They are decided on a state of their own, each on what the earlier ones leave. If none fails, that state
//! counts. Otherwise all of them are decided anew on the state without the group, and nothing is written:
//! what failed keeps its reason, although alone it might succeed; what lost or waits for its user does so if
//! it would alone, too, so that it is in the conflict log; the rest is rejected because of the others.

use super::{Decision, Planner, State};
use crate::id::EntityKey;
use crate::protocol::op::Outcome;
use crate::store::{PendingOp, Refused};

/// How an operation is decided.
pub(super) enum Course {
    /// By what is there.
    Open,
    /// Rejected, whatever is there.
    Rejected(Refused),
    /// By what is there, without its group, but only to this outcome, which writes nothing.
    Only(Outcome),
}

/// Whether an operation with this outcome has no effect though it asked for one.
pub(super) fn fails(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Rejected | Outcome::Conflict | Outcome::Superseded)
}

impl Course {
    /// For an operation that failed its group, so decided.
    pub(super) fn after(decision: Decision) -> Option<Self> {
        let Decision { outcome, because, .. } = decision;
        match because {
            Some(refused) if outcome == Outcome::Rejected => Some(Self::Rejected(refused)),
            _ => fails(outcome).then_some(Self::Only(outcome)),
        }
    }

    /// Why it is rejected if not by what is there.
    pub(super) fn refusal(&self) -> Option<Refused> {
        match self {
            Self::Open => None,
            Self::Rejected(refused) => Some(refused.clone()),
            Self::Only(_) => Some(out_of_place()),
        }
    }
}

fn out_of_place() -> Refused {
    group_failed("it does not go together with its group")
}

fn group_failed(why: &str) -> Refused {
    Refused { code: "group_failed", message: format!("{why}; none of them took effect") }
}

impl Planner<'_> {
    /// Decides a group, or an operation alone.
    pub(super) fn unit(&mut self, unit: &[PendingOp]) {
        if let [op] = unit {
            self.op(op, &Course::Open);
            return;
        }
        self.group = Some(State::at(self.done.head));
        let failed: Vec<_> = unit.iter().map(|op| self.op(op, &Course::Open)).collect();
        let Some(group) = self.group.take() else { return };
        if failed.iter().all(Option::is_none) {
            return self.done.absorb(group);
        }
        for (op, failed) in unit.iter().zip(failed) {
            let others = || Course::Rejected(group_failed("another operation of its group failed"));
            self.op(op, &failed.unwrap_or_else(others));
        }
    }

    /// Decides an operation that has no verdict yet.
    pub(super) fn follow(&self, course: &Course, pending: &PendingOp, key: &EntityKey) -> Decision {
        if let Course::Rejected(Refused { code, message }) = course {
            return Decision::reject(code, message.clone());
        }
        if let Some(done) = self.took_effect(pending) {
            return done;
        }
        let decision = self.bounded(pending, key, self.decide(pending, key));
        match course {
            Course::Only(outcome) if *outcome != decision.outcome => {
                let Refused { code, message } = out_of_place();
                Decision::reject(code, message)
            }
            _ => decision,
        }
    }
}
