//! How a client is to cache entities of a type.

use serde::{Deserialize, Serialize};

use super::error::{ErrorCode, Refusal};

/// The longest time a policy may name, in seconds: a year.
const LONGEST: u64 = 365 * 24 * 3600;
/// The largest cache a policy may name.
const LARGEST: u64 = 1 << 30;

/// What is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Strategy {
    /// The cache while it is fresh, else the hub.
    CacheFirst,
    /// The hub; the cache if it does not answer.
    NetworkFirst,
    /// The cache, and the hub in the background.
    StaleWhileRevalidate,
}

impl Strategy {
    /// The strategy as it stands on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CacheFirst => "CACHE_FIRST",
            Self::NetworkFirst => "NETWORK_FIRST",
            Self::StaleWhileRevalidate => "STALE_WHILE_REVALIDATE",
        }
    }

    /// The strategy of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::CacheFirst, Self::NetworkFirst, Self::StaleWhileRevalidate]
            .into_iter()
            .find(|strategy| strategy.as_str() == name)
    }
}

/// The policy of an entity type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CachePolicy {
    /// What is asked first.
    pub strategy: Strategy,
    /// Seconds for which what was read counts as fresh.
    pub ttl: u64,
    /// Seconds after that for which it may still be shown while there is nothing newer.
    pub stale: u64,
    /// Bytes the client should keep of this type at most.
    pub max_bytes: u64,
}

impl CachePolicy {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// `bad_request`, with the first that does not.
    pub fn check(&self) -> Result<(), Refusal> {
        let wrong = if self.ttl == 0 || self.ttl > LONGEST {
            format!("`ttl` is 1 to {LONGEST} seconds")
        } else if self.stale > LONGEST {
            format!("`stale` is 0 to {LONGEST} seconds")
        } else if self.max_bytes == 0 || self.max_bytes > LARGEST {
            format!("`max_bytes` is 1 to {LARGEST}")
        } else if self.strategy == Strategy::StaleWhileRevalidate && self.stale == 0 {
            "`STALE_WHILE_REVALIDATE` needs a `stale` above 0".to_owned()
        } else {
            return Ok(());
        };
        Err(Refusal::new(ErrorCode::BadRequest, wrong))
    }
}
