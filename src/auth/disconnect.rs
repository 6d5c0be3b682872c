//! Sessions that an administrator ended. Unlike a revocation this takes no token back: the user may return.
//!
//! Kept in the store among the revocations for an hour, so that an instance that the bus does not reach
//! ends them too when it next looks there. When it was decided is told by the store's clock, and compared by
//! each instance with its own monotonic one: no instance's wall clock has a say.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::id::UserId;
use crate::store::RevocationRow;

/// How long it is kept: an instance that was cut off from the store for longer finds expired tokens.
const KEEP_S: i64 = 3600;

/// An administrator's word that a user's sessions end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnect {
    /// Whose.
    pub user: UserId,
    /// When, by the store's clock in milliseconds since the Unix epoch: sessions opened later go on.
    pub at: i64,
}

/// As it stands in the store, told apart from revocations by its kind.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Stored {
    Disconnect(Disconnect),
}

impl Disconnect {
    /// What to store.
    ///
    /// # Errors
    /// Never in practice: it has string keys.
    pub fn row(&self) -> Result<RevocationRow, serde_json::Error> {
        let body = serde_json::to_string(&Stored::Disconnect(self.clone()))?;
        Ok(RevocationRow { body, expires_at: self.at / 1000 + KEEP_S })
    }

    /// Reads one, if the row holds one.
    #[must_use]
    pub fn read(row: &RevocationRow) -> Option<Self> {
        let Stored::Disconnect(disconnect) = serde_json::from_str(&row.body).ok()?;
        Some(disconnect)
    }
}

/// What this instance has heard of.
#[derive(Debug, Default)]
pub struct Disconnects {
    latest: Mutex<HashMap<UserId, i64>>,
    /// What the store's clock said last, and when that was heard here.
    clock: Mutex<Option<(i64, Instant)>>,
}

impl Disconnects {
    /// The store's clock said `store_ms`, as was heard `now`.
    pub fn set_clock(&self, store_ms: i64, now: Instant) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some((store_ms, now));
    }

    fn clock(&self) -> Option<(i64, Instant)> {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store's clock says about `now`, if it was ever heard.
    #[must_use]
    pub fn store_ms(&self, now: Instant) -> Option<i64> {
        let (store_ms, heard) = self.clock()?;
        let since = now.saturating_duration_since(heard).as_millis();
        Some(store_ms.saturating_add(i64::try_from(since).unwrap_or(i64::MAX)))
    }

    /// Until when here sessions were opened before `at`. Too late rather than too early, by as long as the
    /// store's clock takes to be heard; never later than `now`. None if that was before this process.
    #[must_use]
    pub fn until(&self, at: i64, now: Instant) -> Option<Instant> {
        let Some((store_ms, heard)) = self.clock() else { return Some(now) };
        let difference = Duration::from_millis(at.abs_diff(store_ms));
        if at >= store_ms {
            return Some(heard.checked_add(difference).map_or(now, |until| until.min(now)));
        }
        heard.checked_sub(difference).map(|until| until.min(now))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, i64>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is news.
    pub fn add(&self, disconnect: &Disconnect) -> bool {
        let mut latest = self.lock();
        let known = latest.entry(disconnect.user.clone()).or_insert(i64::MIN);
        let new = disconnect.at > *known;
        *known = disconnect.at.max(*known);
        new
    }

    /// It is news again when it is next heard.
    pub fn forget(&self, disconnect: &Disconnect) {
        let mut latest = self.lock();
        if latest.get(&disconnect.user) == Some(&disconnect.at) {
            latest.remove(&disconnect.user);
        }
    }

    /// Forgets what the store has forgotten by `now`, by its clock in milliseconds since the Unix epoch.
    pub fn purge(&self, now: i64) {
        self.lock().retain(|_, at| *at / 1000 + KEEP_S > now / 1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_what_was_opened_before_whatever_the_clocks_say() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let now = start + 100 * second;
        let heard = Disconnects::default();
        assert_eq!(heard.until(5000, now), Some(now), "without a clock to compare with: all");
        assert_eq!(heard.store_ms(now), None);
        // The store's clock is its own: here the process began when it said 3 s.
        heard.set_clock(93_000, start + 90 * second);
        assert_eq!(heard.store_ms(now), Some(103_000));
        assert_eq!(heard.until(63_000, now), Some(start + 60 * second));
        assert_eq!(heard.until(95_000, now), Some(start + 92 * second));
        for ahead in [104_000, i64::MAX] {
            assert_eq!(heard.until(ahead, now), Some(now), "nobody ends what is yet to be opened");
        }
        assert!(heard.until(i64::MIN, now).is_none_or(|until| until < start));
    }

    #[test]
    fn it_is_news_once_and_is_stored_beside_revocations() {
        let at = |at| Disconnect { user: UserId::new("ana").unwrap(), at };
        let heard = Disconnects::default();
        assert!(heard.add(&at(5000)));
        assert!(!heard.add(&at(5000)) && !heard.add(&at(4999)));
        assert!(heard.add(&at(6000)));
        heard.forget(&at(5000));
        assert!(!heard.add(&at(6000)), "a later one was forgotten with an earlier");
        heard.forget(&at(6000));
        assert!(heard.add(&at(6000)));
        heard.purge(6000 + KEEP_S * 1000);
        assert!(heard.add(&at(6000)));

        let row = at(5000).row().unwrap();
        assert_eq!((Disconnect::read(&row), row.expires_at), (Some(at(5000)), 5 + KEEP_S));
        let revocation = r#"{"kind":"user","user":"ana","issued_before":7}"#.to_owned();
        assert_eq!(Disconnect::read(&RevocationRow { body: revocation, expires_at: 9 }), None);
    }
}
