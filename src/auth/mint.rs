//! Tokens for development, made by the `token` command with a configured shared secret.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::Value;

use super::keys::check_hmac;
use crate::config;

/// Why a token could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The key could not verify it either; the field named is wrong.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// Claims are an object.
    #[error("the claims must be a JSON object")]
    Claims,
    /// Signing failed.
    #[error("the token could not be signed")]
    Sign,
}

/// Signs `claims` as they are.
///
/// # Errors
/// What is wrong with the key or the claims.
pub fn mint(key: &config::Hmac, claims: &Value) -> Result<String, MintError> {
    let algorithm = check_hmac(key)
        .map_err(|(field, problem)| MintError::Key(format!("{field}: {problem}")))?;
    if !claims.is_object() {
        return Err(MintError::Claims);
    }
    let mut header = Header::new(algorithm);
    header.kid = (!key.kid.is_empty()).then(|| key.kid.clone());
    let secret = EncodingKey::from_secret(key.secret.as_bytes());
    jsonwebtoken::encode(&header, claims, &secret).map_err(|_| MintError::Sign)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm::{HS256, HS512};
    use serde_json::json;

    use super::*;
    use crate::auth::Authenticator;
    use crate::auth::testing::{NOW, claims, hmac};

    #[test]
    fn a_minted_token_is_believed() {
        for key in [hmac("", HS256), hmac("dev", HS512)] {
            let auth = config::Auth { hmac: vec![key.clone()], ..config::Auth::default() };
            let authenticator = Authenticator::new(&auth).unwrap();
            let token = mint(&key, &claims()).unwrap();
            assert_eq!(authenticator.try_verify(&token, NOW).unwrap().user.as_str(), "ana");
        }
    }

    #[test]
    fn a_useless_token_is_not_minted() {
        let weak = config::Hmac { secret: "short".into(), ..hmac("", HS256) };
        assert!(matches!(mint(&weak, &claims()), Err(MintError::Key(_))));
        assert_eq!(mint(&hmac("", HS256), &json!([])), Err(MintError::Claims));
    }
}
