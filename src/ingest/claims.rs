//! Who says it first: a claim on an event's id, held for a while by one instance.
//!
//! For what the store does not decide: broadcasts, and which of the instances that hear a `PUBLISH` does
//! the work. Kept in Redis, or in memory where there is only one instance.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{ExistenceCheck, RedisResult, SetExpiry, SetOptions};
use tokio::time::Instant;

use crate::bus::{RedisLink, key};
use crate::id::ProjectId;

/// Claims in memory that are kept before the old ones are looked for.
const SWEEP: usize = 4096;

/// Claims on ids.
#[derive(Debug)]
pub(super) enum Claims {
    /// For one instance.
    Local(Mutex<HashMap<String, Instant>>),
    /// For all of them: the link and the prefix of keys.
    Redis(RedisLink, String),
}

impl Claims {
    /// Claims a name within a project. False if somebody has it.
    pub(super) async fn take(
        &self,
        project: &ProjectId,
        name: &str,
        hold: Duration,
    ) -> RedisResult<bool> {
        match self {
            Self::Local(known) => Ok(take_local(known, format!("{project}:{name}"), hold)),
            Self::Redis(link, prefix) => {
                let options = SetOptions::default()
                    .conditional_set(ExistenceCheck::NX)
                    .with_expiration(SetExpiry::PX(hold.as_millis() as u64));
                let mut set = redis::cmd("SET");
                set.arg(key(prefix, project.as_str(), name)).arg(1).arg(options);
                let done: Option<String> = set.query_async(&mut link.clone()).await?;
                Ok(done.is_some())
            }
        }
    }

    /// Gives a claim back: what it was for did not happen.
    pub(super) async fn give_back(&self, project: &ProjectId, name: &str) {
        match self {
            Self::Local(known) => {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.remove(&format!("{project}:{name}"));
            }
            Self::Redis(link, prefix) => {
                let mut delete = redis::cmd("DEL");
                delete.arg(key(prefix, project.as_str(), name));
                // If this fails, the claim ends by itself.
                let _: RedisResult<()> = delete.query_async(&mut link.clone()).await;
            }
        }
    }
}

fn take_local(known: &Mutex<HashMap<String, Instant>>, name: String, hold: Duration) -> bool {
    let now = Instant::now();
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= SWEEP {
        known.retain(|_, until| *until > now);
    }
    match known.get(&name) {
        Some(until) if *until > now => false,
        _ => {
            known.insert(name, now + hold);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_claim_holds_for_its_time() {
        let claims = Claims::Local(Mutex::default());
        let project: ProjectId = "p".parse().unwrap();
        let hold = Duration::from_secs(5);
        assert!(claims.take(&project, "a", hold).await.unwrap());
        assert!(!claims.take(&project, "a", hold).await.unwrap());
        claims.give_back(&project, "a").await;
        assert!(claims.take(&project, "a", hold).await.unwrap());
        tokio::time::advance(hold).await;
        assert!(claims.take(&project, "a", hold).await.unwrap());
    }
}
