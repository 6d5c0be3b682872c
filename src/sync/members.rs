//! Who is in a project: the one way in for changes, and what keeps the memberships in memory true to the
//! store.
//!
//! A change is stored, put in force here, and told to the other instances. What the bus lost is found by
//! its revision when the store is next polled ([`super::follow`]); of deleted rows the store only says
//! that there were some, and then everything is read again.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::auth::{Access, IngestAuthority};
use crate::clock;
use crate::fanout::Relay;
use crate::id::{ProjectId, RoleName, UserId};
use crate::protocol::error::{ErrorCode, Refusal};
use crate::store::{MemberAnswer, MemberEvent, Membership, MembershipHead, Store, StoreError};

/// Memberships read from the store at once.
const PAGE: u32 = 10_000;

/// Changes memberships, and reads them. Cheap to clone.
#[derive(Clone)]
pub struct Members {
    store: Store,
    relay: Arc<Relay>,
    access: Arc<Access>,
    /// How far the store was read.
    seen: Arc<Mutex<MembershipHead>>,
}

impl Members {
    /// None are read yet: see [`Self::reload`].
    #[must_use]
    pub fn new(store: Store, relay: Arc<Relay>, access: Arc<Access>) -> Self {
        Self { store, relay, access, seen: Arc::default() }
    }

    /// Gives a user a role in a project, or with `None` takes every access to it away.
    ///
    /// # Errors
    /// There is no such role, or the store does not answer.
    pub async fn set(
        &self,
        _: &IngestAuthority,
        project: &ProjectId,
        user: &UserId,
        role: Option<&RoleName>,
    ) -> Result<(), Refusal> {
        self.check(role)?;
        let changed = self.store.set_member(project, user, role, clock::now_ms()).await;
        match changed.map_err(|error| unavailable(&error))? {
            Some(change) => self.relay.members(&[change]),
            None => self.enforce(project, &[user]).await?,
        }
        Ok(())
    }

    /// Deletes what is stored of a user in a project, so that their token decides.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn forget(
        &self,
        _: &IngestAuthority,
        project: &ProjectId,
        user: &UserId,
    ) -> Result<(), Refusal> {
        let changed = self.store.forget_member(project, user).await;
        self.relay.members(changed.map_err(|error| unavailable(&error))?.as_slice());
        Ok(())
    }

    /// Applies backends' events about the members of one project, in their order and each id once.
    ///
    /// # Errors
    /// The store does not answer: the same events may be sent again.
    pub async fn apply(
        &self,
        _: &IngestAuthority,
        project: &ProjectId,
        events: &[MemberEvent],
    ) -> Result<Vec<MemberAnswer>, Refusal> {
        let answers = self.store.member_events(project, events, clock::now_ms()).await;
        let answers = answers.map_err(|error| unavailable(&error))?;
        let changes: Vec<Membership> = answers
            .iter()
            .filter_map(|answer| match answer {
                MemberAnswer::New(change) => change.clone(),
                MemberAnswer::Replayed(_) | MemberAnswer::Reused => None,
            })
            .collect();
        self.relay.members(&changes);
        let repeated = events.iter().zip(&answers);
        let repeated = repeated.filter(|(_, told)| matches!(told, MemberAnswer::Replayed(_)));
        let users: Vec<_> = repeated.map(|(event, _)| &event.user).collect();
        self.enforce(project, &users).await?;
        Ok(answers)
    }

    /// Puts in force, on every instance, what is stored already: who stored it may have ended, or lost its
    /// connection to the store, before it told anybody.
    async fn enforce(&self, project: &ProjectId, users: &[&UserId]) -> Result<(), Refusal> {
        for user in users {
            let stored = self.store.membership(project, user).await;
            self.relay.members(stored.map_err(|error| unavailable(&error))?.as_slice());
        }
        Ok(())
    }

    /// Whether a role can be given.
    ///
    /// # Errors
    /// It is not configured.
    pub fn check(&self, role: Option<&RoleName>) -> Result<(), Refusal> {
        match role {
            Some(name) if self.access.roles().get(name).is_none() => {
                let names: Vec<_> = self.access.roles().names().map(|n| format!("`{n}`")).collect();
                let message =
                    format!("there is no role `{name}`; the roles are: {}", names.join(", "));
                Err(Refusal::new(ErrorCode::BadRequest, message))
            }
            _ => Ok(()),
        }
    }

    /// Reads what changed in the store since it was last read; how much was news here.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing is skipped by the next call.
    pub async fn reload(&self) -> Result<usize, StoreError> {
        let Some(memberships) = self.access.memberships() else { return Ok(0) };
        let mut seen = self.seen.lock().await;
        let head = self.store.membership_head().await?;
        if head == *seen {
            return Ok(0);
        }
        let replaced = head.revision < seen.revision;
        if replaced {
            tracing::warn!("the store's memberships are older than those known; reading them anew");
            memberships.distrust();
        }
        let whole = replaced || head.forgotten != seen.forgotten;
        let mut after = if whole { 0 } else { seen.revision };
        let (mut news, mut stored) = (0, HashSet::new());
        loop {
            let page = self.store.memberships_after(after, PAGE).await?;
            news += self.relay.members_here(&page);
            after = page.last().map_or(after, |last| last.revision);
            let more = page.len() == PAGE as usize;
            if whole {
                stored.extend(page.into_iter().map(|m| (m.project, m.user)));
            }
            if !more {
                break;
            }
        }
        if whole {
            let forgotten = memberships.keep(&stored, head.revision);
            news += forgotten.len();
            forgotten.iter().for_each(|user| self.relay.fanout.regrant(user));
        }
        // Not as far as the last row read: it may be newer than a deletion that was not seen.
        memberships.read_to(head.revision);
        *seen = head;
        Ok(news)
    }
}

fn unavailable(error: &StoreError) -> Refusal {
    if error.retryable() {
        tracing::warn!(%error, "a membership cannot be stored now");
        Refusal::new(ErrorCode::Unavailable, "the store does not answer; try again")
            .retry_after(1000)
    } else {
        Refusal::internal(error)
    }
}
