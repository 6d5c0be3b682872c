//! Token verification: text and time in, [`Claims`] or a reason out. Pure and fast, no clock, no I/O.
//!
//! Invariants: the algorithm is the key's, the header only has to agree; nothing of the payload is read
//! before the signature is good; a key named by the token is the only kind of key tried.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::claims::{Claims, Rules};
use super::keys::{Key, KeySet, static_keys};
use crate::config;
use crate::protocol::error::{ErrorCode, Refusal};

/// Bytes of one token.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error("a token is required")]
    Missing,
    /// It does not have the form of a signed JWT.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// Its header names an algorithm that the key is not for, or that is not supported.
    #[error("the token's algorithm is not accepted")]
    WrongAlgorithm,
    /// Its header asks for extensions (`crit`), and none is supported.
    #[error("the token asks for extensions that are not supported")]
    Critical,
    /// No configured key is meant by it.
    #[error("the token's key is not known")]
    UnknownKey,
    /// No key it may be signed with made its signature.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// It will be good later.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its `iss` is not configured.
    #[error("the token is of another issuer")]
    WrongIssuer,
    /// Its `aud` names none of the configured.
    #[error("the token is for another audience")]
    WrongAudience,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// It, or the claim named, is larger than the hub accepts.
    #[error("the token is too large: {0}")]
    TooLarge(String),
    /// The claim named is missing or not of its form.
    #[error("the token's claims are not usable: {0}")]
    BadClaims(String),
}

impl TokenError {
    /// The answer to whoever sent the token.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Expired => ErrorCode::TokenExpired,
            Self::Revoked => ErrorCode::TokenRevoked,
            _ => ErrorCode::Unauthorized,
        };
        Refusal::new(code, self.to_string())
    }
}

/// Verifies tokens with the keys of the moment, from any thread.
#[derive(Debug)]
pub struct Verifier {
    rules: Rules,
    keys: RwLock<Arc<KeySet>>,
}

impl Verifier {
    /// A verifier with the keys that stand in the configuration and `sources` empty key groups beside
    /// them, for [`set_source`](Self::set_source) to fill.
    pub(super) fn new(
        auth: &config::Auth,
        sources: usize,
        problems: &mut Vec<String>,
    ) -> Option<Self> {
        let keys = KeySet::new(static_keys(auth, problems), sources);
        let rules = Rules::new(auth, problems)?;
        Some(Self { rules, keys: RwLock::new(Arc::new(keys)) })
    }

    /// Verifies `token` as of `now`, in Unix seconds.
    ///
    /// # Errors
    /// Why the token is not believed.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge(format!("it has more than {MAX_TOKEN_BYTES} bytes")));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message
            .split_once('.')
            .filter(|(_, payload)| !payload.contains('.'))
            .ok_or(TokenError::Malformed)?;

        let header = decode(header)?;
        let header: Header<'_> =
            serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.crit {
            return Err(TokenError::Critical);
        }
        let algorithm: Algorithm = header.alg.parse().map_err(|_| TokenError::WrongAlgorithm)?;
        self.keys().check(header.kid.as_deref(), algorithm, message, signature)?;

        self.rules.read(&decode(payload)?, now)
    }

    fn keys(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the keys of one source: those it no longer has are gone.
    pub(super) fn set_source(&self, source: usize, keys: Vec<Key>) {
        let mut current = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(current.with_source(source, keys));
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

/// The three header fields that matter; embedded keys (`jwk`, `jku`, `x5c`) are never looked at.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow)]
    kid: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(json).map(|_| true)
}

#[cfg(test)]
mod tests;
