//! One claim on its way: what is still to be sent, in which requests, and what became of the rest.

use std::collections::HashMap;
use std::time::Duration;

use super::decide::Policy;
use super::provider::Envelope;
use crate::store::push::{Claimed, Content, Outcome, Renewed, Settled, Settlement};

/// What is left of a claim, and what became of the rest.
pub(super) struct Round {
    /// What is still to be sent, request by request.
    pub(super) parts: Vec<Vec<Claimed>>,
    pub(super) settled: Vec<Settled>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) scopes: Vec<(i64, String)>,
}

impl Round {
    /// Tokens known to belong to different projects go in different requests.
    pub(super) fn new(claimed: Vec<Claimed>) -> Self {
        let mut parts: HashMap<String, Vec<Claimed>> = HashMap::new();
        for claimed in claimed {
            parts.entry(claimed.scope.clone().unwrap_or_default()).or_default().push(claimed);
        }
        Self {
            parts: parts.into_values().collect(),
            settled: Vec::new(),
            outcomes: Vec::new(),
            scopes: Vec::new(),
        }
    }

    /// Leaves only these deliveries to be sent, each as it is now.
    pub(super) fn keep(&mut self, held: Vec<Renewed>) {
        let mut held: HashMap<i64, Renewed> = held.into_iter().map(|one| (one.id, one)).collect();
        for part in &mut self.parts {
            part.retain_mut(|claimed| {
                let Some(Renewed { ttl, token, scope, .. }) = held.remove(&claimed.id) else {
                    return false;
                };
                (claimed.ttl, claimed.token, claimed.scope) = (ttl, token, scope);
                true
            });
        }
    }

    /// Leaves all that was not sent to whoever claims it next, at once.
    pub(super) fn give_back(&mut self, why: &str) {
        for claimed in std::mem::take(&mut self.parts).iter().flatten() {
            let error = why.to_owned();
            let again = Settlement::Retry { delay: 0, error, ambiguous: false, counts: false };
            self.settle(claimed, again);
        }
    }

    pub(super) fn settle(&mut self, claimed: &Claimed, fate: Settlement) {
        self.settled.push(Settled { id: claimed.id, fence: claimed.fence, fate });
    }

    /// Halves a request, until what is at fault stands alone.
    pub(super) fn halve(&mut self, mut part: Vec<Claimed>) {
        let right = part.split_off(part.len() / 2);
        self.parts.extend([part, right]);
    }

    /// Sends each project's tokens apart, and remembers whose they are. Those nobody named go alone, and if that is
    /// all of them it takes trying.
    pub(super) fn regroup(&mut self, part: Vec<Claimed>, groups: &HashMap<String, Vec<String>>) {
        let owner: HashMap<&str, &str> = groups
            .iter()
            .flat_map(|(scope, tokens)| tokens.iter().map(|t| (t.as_str(), scope.as_str())))
            .collect();
        let mut parts: HashMap<&str, Vec<Claimed>> = HashMap::new();
        for claimed in part {
            let token = claimed.token.as_deref().unwrap_or_default();
            let scope = owner.get(token).copied().unwrap_or_default();
            if let (Some(id), false) = (claimed.token_id, scope.is_empty()) {
                self.scopes.push((id, scope.to_owned()));
            }
            parts.entry(scope).or_default().push(claimed);
        }
        let mut parts: Vec<_> = parts.into_values().collect();
        match parts.pop() {
            Some(whole) if parts.is_empty() => self.halve(whole),
            last => self.parts.extend(parts.into_iter().chain(last)),
        }
    }
}

/// The envelopes of what is still to be told and has a token; the rest is settled.
pub(super) fn open(
    policy: &Policy,
    content: &Content,
    part: Vec<Claimed>,
    round: &mut Round,
) -> (Vec<Envelope>, Vec<Claimed>) {
    let mut envelopes = Vec::with_capacity(part.len());
    let mut kept = Vec::with_capacity(part.len());
    for claimed in part {
        match envelope(policy, content, &claimed) {
            Ok(envelope) => {
                envelopes.push(envelope);
                kept.push(claimed);
            }
            Err(fate) => round.settle(&claimed, fate),
        }
    }
    (envelopes, kept)
}

fn envelope(policy: &Policy, content: &Content, claimed: &Claimed) -> Result<Envelope, Settlement> {
    let withheld = |reason| Settlement::Withheld { reason };
    let message = serde_json::from_str(&claimed.payload)
        .map_err(|_| Settlement::Failed { error: "unreadable".into() })?;
    let message = policy.say(claimed, message, content).map_err(withheld)?;
    let token = match (claimed.token_id, &claimed.token) {
        (None, _) => String::new(),
        (Some(_), Some(token)) => token.clone(),
        (Some(_), None) => return Err(withheld("removed")),
    };
    let ttl = Duration::from_millis(u64::try_from(claimed.ttl).unwrap_or(0));
    Ok(Envelope { token, ttl, message })
}
