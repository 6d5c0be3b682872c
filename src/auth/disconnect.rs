//! Sessions that an administrator ended. Unlike a revocation this takes no token back: the user may return.
//!
//! Kept in the store among the revocations for an hour, so that an instance that the bus does not reach
//! ends them too when it next looks there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::id::UserId;
use crate::store::RevocationRow;

/// How long it is kept: an instance that was cut off from the store for longer finds expired tokens.
const KEEP_S: i64 = 3600;

/// An administrator's word that a user's sessions end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnect {
    /// Whose.
    pub user: UserId,
    /// When, in milliseconds since the Unix epoch: sessions opened later go on.
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
}

impl Disconnects {
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

    /// Forgets what the store has forgotten by `now`, in milliseconds since the Unix epoch.
    pub fn purge(&self, now: i64) {
        self.lock().retain(|_, at| *at / 1000 + KEEP_S > now / 1000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
