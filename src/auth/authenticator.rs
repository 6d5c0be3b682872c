//! The one place that says whether a token is good now: keys that come and go, claims, revocations.
//!
//! The session and the HTTP endpoints share one [`Authenticator`]. [`try_verify`] is the hot path and
//! never waits; only a token of an unknown key is worth [`verify_after_refresh`].
//!
//! [`try_verify`]: Authenticator::try_verify
//! [`verify_after_refresh`]: Authenticator::verify_after_refresh

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

use super::claims::Claims;
use super::jwks::{Source, Timing};
use super::revocation::Revocations;
use super::token::{TokenError, Verifier};
use crate::config;

/// Between two purges of revocations.
const PURGE: Duration = Duration::from_secs(60);

/// Characters of the shortest admin token.
const MIN_ADMIN_TOKEN: usize = 32;

/// Verifies tokens, keeps key sets fresh, and knows what was revoked.
#[derive(Debug)]
pub struct Authenticator {
    verifier: Verifier,
    sources: Vec<Source>,
    revocations: Revocations,
    timing: Timing,
}

impl Authenticator {
    /// Reads keys and rules from the configuration. Key sets behind URLs are fetched by [`run`](Self::run).
    ///
    /// # Errors
    /// Everything that is wrong, each with its path in the configuration.
    pub fn new(auth: &config::Auth) -> Result<Self, Vec<String>> {
        Self::with_timing(auth, Timing::default())
    }

    pub(super) fn with_timing(auth: &config::Auth, timing: Timing) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let verifier = Verifier::new(auth, auth.jwks.len(), &mut problems);
        let mut sources = Vec::new();
        for (i, cfg) in auth.jwks.iter().enumerate() {
            let source = Source::new(i, cfg, timing);
            match source.and_then(|source| Ok((source.first_keys()?, source))) {
                Ok(source) => sources.push(source),
                Err(problem) => problems.push(problem),
            }
        }
        if !auth.admin_token.is_empty() && auth.admin_token.chars().count() < MIN_ADMIN_TOKEN {
            problems
                .push(format!("auth.admin_token: must have at least {MIN_ADMIN_TOKEN} characters"));
        }
        match verifier {
            Some(verifier) if problems.is_empty() => {
                let revocations = Revocations::default();
                let sources = (0..).zip(sources).map(|(i, (keys, source))| {
                    verifier.set_source(i, keys);
                    source
                });
                Ok(Self { sources: sources.collect(), verifier, revocations, timing })
            }
            _ => Err(problems),
        }
    }

    /// Whether the token is good at `now`, in Unix seconds, with the keys at hand.
    ///
    /// # Errors
    /// Why not. [`TokenError::UnknownKey`] may be different after a refresh.
    pub fn try_verify(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let claims = self.verifier.verify(token, now)?;
        if self.revocations.revoked(&claims) {
            return Err(TokenError::Revoked);
        }
        Ok(claims)
    }

    /// Asks the key sets for news of a token whose key is unknown, and tries once more. Waits a bounded
    /// time, and not at all when unknown keys have asked lately.
    ///
    /// # Errors
    /// Why the token is not good with the keys there are then.
    pub async fn verify_after_refresh(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let mut refreshes: FuturesUnordered<_> = self
            .sources
            .iter()
            .filter_map(Source::demand)
            .map(|mut finished| async move { finished.changed().await.is_ok() })
            .collect();
        // A refresh may have ended since the caller tried.
        let mut verdict = self.try_verify(token, now);
        if verdict != Err(TokenError::UnknownKey) {
            return verdict;
        }
        let tries = async {
            while refreshes.next().await.is_some() {
                verdict = self.try_verify(token, now);
                if verdict != Err(TokenError::UnknownKey) {
                    return;
                }
            }
        };
        // Late is as good as never: the verdict stays what it was.
        let _ = tokio::time::timeout(self.timing.patience, tries).await;
        verdict
    }

    /// Both in one: [`try_verify`](Self::try_verify), and if the key is unknown,
    /// [`verify_after_refresh`](Self::verify_after_refresh).
    ///
    /// # Errors
    /// Why the token is not good.
    pub async fn authenticate(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        match self.try_verify(token, now) {
            Err(TokenError::UnknownKey) => self.verify_after_refresh(token, now).await,
            verdict => verdict,
        }
    }

    /// What was revoked, to add to and to ask.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Keeps key sets fresh and purges revocations until the shutdown. Spawn it once; without it no URL
    /// is ever fetched.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let sources = self.sources.iter().map(|source| source.run(&self.verifier, &shutdown));
        let purge = shutdown.run_until_cancelled(async {
            loop {
                tokio::time::sleep(PURGE).await;
                self.revocations.purge(unix_now());
            }
        });
        tokio::join!(join_all(sources), purge);
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
impl Authenticator {
    pub(super) fn sources(&self) -> &[Source] {
        &self.sources
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm::HS256;

    use super::*;
    use crate::auth::testing::{NOW, claims, hs256, sign};
    use crate::auth::{Revocation, RevocationEntry};

    #[tokio::test]
    async fn a_revoked_token_is_told_apart() {
        let authenticator = Authenticator::new(&hs256()).unwrap();
        let mut claims = claims();
        claims["jti"] = "t1".into();
        let token = sign(HS256, None, &claims);
        assert!(authenticator.authenticate(&token, NOW).await.is_ok());
        let revocation = Revocation::Token { jti: "t1".into() };
        authenticator.revocations().add(RevocationEntry { revocation, expires_at: NOW + 600 });
        assert_eq!(authenticator.authenticate(&token, NOW).await, Err(TokenError::Revoked));
        assert_eq!(authenticator.authenticate(&token, NOW + 700).await, Err(TokenError::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn revocations_of_the_past_are_purged() {
        let authenticator = Arc::new(Authenticator::new(&hs256()).unwrap());
        let revocation = Revocation::IssuedBefore { issued_before: 1 };
        authenticator.revocations().add(RevocationEntry { revocation, expires_at: 2 });
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&authenticator).run(shutdown.clone()));
        tokio::time::sleep(PURGE * 2).await;
        assert!(authenticator.revocations().is_empty());
        shutdown.cancel();
        running.await.unwrap();
    }
}
