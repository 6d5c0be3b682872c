//! Tokens taken back before they expire.
//!
//! The admin API adds entries, every instance hears of them and holds them here; [`super::Authenticator`]
//! asks for every token, and the session asks [`concerns`] for the connections that are open. An entry is
//! of no use once every token it could concern has expired, and is then purged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde::{Deserialize, Serialize};

use super::claims::Claims;
use crate::id::UserId;
use crate::store::RevocationRow;

/// Which tokens are taken back. A token without `iat` counts as issued at 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Revocation {
    /// A user's, on every device.
    User {
        /// The user.
        user: UserId,
        /// Tokens issued before this, in Unix seconds; later ones are good.
        issued_before: i64,
    },
    /// A user's on one device, as the token's `device` claim names it.
    Device {
        /// The user.
        user: UserId,
        /// The device.
        device: String,
        /// Tokens issued before this, in Unix seconds; later ones are good.
        issued_before: i64,
    },
    /// One token.
    Token {
        /// Its `jti`.
        jti: String,
    },
    /// Everyone's.
    IssuedBefore {
        /// Tokens issued before this, in Unix seconds; later ones are good.
        issued_before: i64,
    },
}

/// A revocation and when it may be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationEntry {
    /// What is revoked.
    pub revocation: Revocation,
    /// Unix seconds after which every token it could concern has expired.
    pub expires_at: i64,
}

impl RevocationEntry {
    /// Reads a revocation as it is stored.
    ///
    /// # Errors
    /// It is not of a form this version knows.
    pub fn read(row: &RevocationRow) -> Result<Self, serde_json::Error> {
        Ok(Self { revocation: serde_json::from_str(&row.body)?, expires_at: row.expires_at })
    }
}

/// Whether a token with these claims is among those revoked.
#[must_use]
pub fn concerns(revocation: &Revocation, claims: &Claims) -> bool {
    let issued = issued_at(claims);
    match revocation {
        Revocation::User { user, issued_before } => *user == claims.user && issued < *issued_before,
        Revocation::Device { user, device, issued_before } => {
            *user == claims.user
                && claims.device.as_ref() == Some(device)
                && issued < *issued_before
        }
        Revocation::Token { jti } => claims.jti.as_ref() == Some(jti),
        Revocation::IssuedBefore { issued_before } => issued < *issued_before,
    }
}

fn issued_at(claims: &Claims) -> i64 {
    claims.issued_at.unwrap_or(0)
}

/// Tokens issued before a time are revoked. Two of one subject merge into the stricter.
#[derive(Debug, Clone, Copy)]
struct Cut {
    issued_before: i64,
    expires_at: i64,
}

impl Cut {
    /// Cuts nothing, and may be forgotten at once.
    const NONE: Self = Self { issued_before: i64::MIN, expires_at: i64::MIN };

    /// Whether this changes anything.
    fn merge(&mut self, issued_before: i64, expires_at: i64) -> bool {
        let new = issued_before > self.issued_before || expires_at > self.expires_at;
        self.issued_before = self.issued_before.max(issued_before);
        self.expires_at = self.expires_at.max(expires_at);
        new
    }

    fn revokes(&self, claims: &Claims) -> bool {
        issued_at(claims) < self.issued_before
    }
}

#[derive(Debug)]
struct Index {
    everyone: Cut,
    users: HashMap<UserId, Cut>,
    devices: HashMap<UserId, HashMap<String, Cut>>,
    /// By `jti`, with the time after which to forget it.
    tokens: HashMap<String, i64>,
}

/// The revocations in force, indexed so that asking costs a few look-ups however many there are.
#[derive(Debug)]
pub struct Revocations {
    index: RwLock<Index>,
    /// How often something was added.
    generation: AtomicU64,
}

impl Default for Revocations {
    fn default() -> Self {
        let index = RwLock::new(Index {
            everyone: Cut::NONE,
            users: HashMap::new(),
            devices: HashMap::new(),
            tokens: HashMap::new(),
        });
        Self { index, generation: AtomicU64::new(0) }
    }
}

impl Revocations {
    /// Puts a revocation in force; whether it was not yet. Adding one twice changes nothing.
    pub fn add(&self, entry: RevocationEntry) -> bool {
        let RevocationEntry { revocation, expires_at } = entry;
        let mut index = self.write();
        let new = match revocation {
            Revocation::User { user, issued_before } => {
                index.users.entry(user).or_insert(Cut::NONE).merge(issued_before, expires_at)
            }
            Revocation::Device { user, device, issued_before } => index
                .devices
                .entry(user)
                .or_default()
                .entry(device)
                .or_insert(Cut::NONE)
                .merge(issued_before, expires_at),
            Revocation::Token { jti } => {
                let until = index.tokens.entry(jti).or_insert(i64::MIN);
                let new = expires_at > *until;
                *until = expires_at.max(*until);
                new
            }
            Revocation::IssuedBefore { issued_before } => {
                index.everyone.merge(issued_before, expires_at)
            }
        };
        drop(index);
        if new {
            self.generation.fetch_add(1, Ordering::Release);
        }
        new
    }

    /// A number that rises with every revocation that is new: who holds verified claims asks again when
    /// it changed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a token with these claims is revoked.
    #[must_use]
    pub fn revoked(&self, claims: &Claims) -> bool {
        let index = self.read();
        let user = || index.users.get(&claims.user);
        let device = || index.devices.get(&claims.user)?.get(claims.device.as_ref()?);
        index.everyone.revokes(claims)
            || user().is_some_and(|cut| cut.revokes(claims))
            || device().is_some_and(|cut| cut.revokes(claims))
            || claims.jti.as_ref().is_some_and(|jti| index.tokens.contains_key(jti))
    }

    /// Forgets what concerns only tokens that have expired by `now`, in Unix seconds.
    pub fn purge(&self, now: i64) {
        let mut index = self.write();
        if index.everyone.expires_at <= now {
            index.everyone = Cut::NONE;
        }
        index.users.retain(|_, cut| cut.expires_at > now);
        index.devices.retain(|_, devices| {
            devices.retain(|_, cut| cut.expires_at > now);
            !devices.is_empty()
        });
        index.tokens.retain(|_, expires_at| *expires_at > now);
    }

    /// How many are held, for metrics.
    #[must_use]
    pub fn len(&self) -> usize {
        let index = self.read();
        let devices: usize = index.devices.values().map(HashMap::len).sum();
        usize::from(index.everyone.expires_at != i64::MIN)
            + index.users.len()
            + devices
            + index.tokens.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn claims(user: &str, device: Option<&str>, jti: Option<&str>, iat: Option<i64>) -> Claims {
        Claims {
            user: UserId::new(user).unwrap(),
            projects: BTreeMap::new(),
            device: device.map(str::to_owned),
            jti: jti.map(str::to_owned),
            issued_at: iat,
            expires_at: 1000,
        }
    }

    fn ana() -> UserId {
        UserId::new("ana").unwrap()
    }

    /// Every kind, with the tokens it concerns and those it does not.
    fn table() -> Vec<(Revocation, Vec<Claims>, Vec<Claims>)> {
        let device = || "phone".to_owned();
        vec![
            (
                Revocation::User { user: ana(), issued_before: 100 },
                vec![claims("ana", None, None, Some(99)), claims("ana", Some("x"), None, None)],
                vec![claims("ana", None, None, Some(100)), claims("bob", None, None, Some(1))],
            ),
            (
                Revocation::Device { user: ana(), device: device(), issued_before: 100 },
                vec![claims("ana", Some("phone"), None, Some(99))],
                vec![
                    claims("ana", Some("phone"), None, Some(100)),
                    claims("ana", Some("tablet"), None, Some(1)),
                    claims("ana", None, None, Some(1)),
                    claims("bob", Some("phone"), None, Some(1)),
                ],
            ),
            (
                Revocation::Token { jti: "t".into() },
                vec![
                    claims("ana", None, Some("t"), Some(500)),
                    claims("bob", None, Some("t"), None),
                ],
                vec![claims("ana", None, Some("u"), None), claims("ana", None, None, None)],
            ),
            (
                Revocation::IssuedBefore { issued_before: 100 },
                vec![claims("ana", None, None, Some(99)), claims("bob", None, None, None)],
                vec![claims("ana", None, None, Some(100))],
            ),
        ]
    }

    #[test]
    fn each_kind_concerns_what_it_names_until_it_is_purged() {
        for (revocation, revoked, spared) in table() {
            let set = Revocations::default();
            assert!(set.is_empty());
            let entry = RevocationEntry { revocation: revocation.clone(), expires_at: 1000 };
            set.add(entry.clone());
            set.add(entry);
            assert_eq!(set.len(), 1);
            set.purge(999);
            for claims in &revoked {
                assert!(concerns(&revocation, claims), "{revocation:?} spared {claims:?}");
                assert!(set.revoked(claims), "{revocation:?} spared {claims:?}");
            }
            for claims in &spared {
                assert!(!concerns(&revocation, claims), "{revocation:?} took {claims:?}");
                assert!(!set.revoked(claims), "{revocation:?} took {claims:?}");
            }
            set.purge(1000);
            assert!(set.is_empty());
            assert!(revoked.iter().all(|claims| !set.revoked(claims)));
        }
    }

    #[test]
    fn the_stricter_of_two_stands_in_either_order() {
        let cut = |issued_before, expires_at| RevocationEntry {
            revocation: Revocation::User { user: ana(), issued_before },
            expires_at,
        };
        for entries in [[cut(100, 500), cut(200, 400)], [cut(200, 400), cut(100, 500)]] {
            let set = Revocations::default();
            entries.into_iter().for_each(|entry| {
                set.add(entry);
            });
            set.purge(450);
            assert!(set.revoked(&claims("ana", None, None, Some(199))));
            assert!(!set.revoked(&claims("ana", None, None, Some(200))));
        }
    }

    #[test]
    fn entries_travel_as_json() {
        for (revocation, ..) in table() {
            let entry = RevocationEntry { revocation, expires_at: 7 };
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<RevocationEntry>(&text).unwrap(), entry);
        }
        let text = r#"{"kind":"device","user":"ana","device":"d","issued_before":3}"#;
        assert!(serde_json::from_str::<Revocation>(text).is_ok());
    }
}
