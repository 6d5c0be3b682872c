//! Signs a token with a configured secret. Used by `syncline token` and by tests.

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::config::Hmac;

/// A JWT with these claims, signed with this key.
///
/// # Errors
/// The key's algorithm is not an HMAC.
pub fn mint(key: &Hmac, claims: &serde_json::Value) -> anyhow::Result<String> {
    let algorithm = match key.algorithm.as_str() {
        "HS256" => Algorithm::HS256,
        "HS384" => Algorithm::HS384,
        "HS512" => Algorithm::HS512,
        other => anyhow::bail!("{other:?} is not HS256, HS384 or HS512"),
    };
    let mut header = Header::new(algorithm);
    header.kid = (!key.kid.is_empty()).then(|| key.kid.clone());
    let secret = EncodingKey::from_secret(key.secret.as_bytes());
    jsonwebtoken::encode(&header, claims, &secret).context("the token cannot be signed")
}
