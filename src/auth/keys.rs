//! Keys: from the configuration and from JWKs to the set a token is checked against.
//!
//! Each key has exactly one algorithm, and is checked to fit it before it is used.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

use super::token::TokenError;
use crate::config;

/// Bits of the smallest RSA key accepted (RFC 7518, section 3.3).
const MIN_RSA_BITS: usize = 2048;

/// A field of a configured key, and what is wrong with it.
pub(super) type Problem = (&'static str, String);

/// One key with its one algorithm.
pub(super) struct Key {
    kid: Option<Box<str>>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// A public key, if it fits the algorithm.
    fn public(
        kid: Option<&str>,
        algorithm: Algorithm,
        decoding: DecodingKey,
    ) -> Result<Self, String> {
        let unfit = || format!("the key is not one for {algorithm:?}");
        if decoding.family() != algorithm.family() {
            return Err(unfit());
        }
        let shape = Jwk::from_decoding_key(&decoding, None).map_err(|_| unfit())?;
        match (&shape.algorithm, algorithm) {
            (AlgorithmParameters::RSA(rsa), _) => {
                // Base64 without padding: six bits a character.
                if rsa.n.len() * 6 < MIN_RSA_BITS {
                    return Err(format!("an RSA key must have at least {MIN_RSA_BITS} bits"));
                }
            }
            (AlgorithmParameters::EllipticCurve(ec), Algorithm::ES256)
                if ec.curve == EllipticCurve::P256 => {}
            (AlgorithmParameters::EllipticCurve(ec), Algorithm::ES384)
                if ec.curve == EllipticCurve::P384 => {}
            (AlgorithmParameters::OctetKeyPair(_), Algorithm::EdDSA) => {}
            _ => return Err(unfit()),
        }
        Ok(Self { kid: kid.map(Into::into), algorithm, decoding })
    }

    fn hmac(key: &config::Hmac) -> Result<Self, Problem> {
        let algorithm = check_hmac(key)?;
        let decoding = DecodingKey::from_secret(key.secret.as_bytes());
        Ok(Self { kid: kid(&key.kid), algorithm, decoding })
    }

    fn pem(key: &config::PublicKey) -> Result<Self, Problem> {
        let algorithm: Algorithm = key
            .algorithm
            .parse()
            .ok()
            .filter(|algorithm: &Algorithm| algorithm.family() != AlgorithmFamily::Hmac)
            .ok_or_else(|| {
                ("algorithm", "must be RS256…RS512, PS256…PS512, ES256, ES384 or EdDSA".to_owned())
            })?;
        let file = |problem: String| ("pem_file", format!("{}: {problem}", key.pem_file.display()));
        let pem = std::fs::read(&key.pem_file).map_err(|error| file(error.to_string()))?;
        // A certificate or a private key would be read as some other key.
        let text = String::from_utf8_lossy(&pem);
        let tag = text.split("-----").nth(1).unwrap_or_default();
        if tag != "BEGIN PUBLIC KEY" && tag != "BEGIN RSA PUBLIC KEY" {
            return Err(file("must hold a PEM public key (`BEGIN PUBLIC KEY`)".into()));
        }
        let decoding = match algorithm.family() {
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(&pem),
            _ => DecodingKey::from_rsa_pem(&pem),
        }
        .map_err(|_| file(format!("the key is not one for {algorithm:?}")))?;
        Self::public(kid(&key.kid).as_deref(), algorithm, decoding).map_err(file)
    }

    /// A key of a key set; the reason if it is none to verify tokens with.
    pub(super) fn from_jwk(jwk: &Jwk) -> Result<Self, String> {
        let common = &jwk.common;
        if common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return Err("its use is not `sig`".into());
        }
        let inferred = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => Algorithm::ES256,
                EllipticCurve::P384 => Algorithm::ES384,
                _ => return Err("its curve is not supported".into()),
            },
            AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
            AlgorithmParameters::OctetKey(_) => {
                return Err("symmetric keys do not belong in a key set".into());
            }
            _ => return Err("its type is not supported".into()),
        };
        let algorithm = match common.key_algorithm {
            None => inferred,
            Some(named) => Algorithm::try_from(named)
                .map_err(|_| "its algorithm is not supported".to_owned())?,
        };
        // An RSA key serves six algorithms; any other kind of key has one.
        if algorithm != inferred && inferred.family() != AlgorithmFamily::Rsa {
            return Err("its algorithm is not that of its curve".into());
        }
        let decoding =
            DecodingKey::from_jwk(jwk).map_err(|_| "it is not well formed".to_owned())?;
        Self::public(common.key_id.as_deref(), algorithm, decoding)
    }

    fn signed(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.decoding, self.algorithm)
            .unwrap_or(false)
    }
}

/// The algorithm of a shared secret that is long enough for it (RFC 7518, section 3.2).
pub(super) fn check_hmac(key: &config::Hmac) -> Result<Algorithm, Problem> {
    let (algorithm, min) = match key.algorithm.as_str() {
        "HS256" => (Algorithm::HS256, 32),
        "HS384" => (Algorithm::HS384, 48),
        "HS512" => (Algorithm::HS512, 64),
        _ => return Err(("algorithm", "must be HS256, HS384 or HS512".into())),
    };
    if key.secret.len() < min {
        return Err(("secret", format!("must have at least {min} bytes for {algorithm:?}")));
    }
    if key.secret.contains("-----BEGIN") {
        return Err(("secret", "must be a secret, not a PEM key; see auth.public_keys".into()));
    }
    Ok(algorithm)
}

fn kid(configured: &str) -> Option<Box<str>> {
    (!configured.is_empty()).then(|| configured.into())
}

/// The keys that stand in the configuration; adds what is wrong with them to `problems`.
pub(super) fn static_keys(auth: &config::Auth, problems: &mut Vec<String>) -> Vec<Key> {
    if auth.hmac.is_empty() && auth.public_keys.is_empty() && auth.jwks.is_empty() {
        problems.push("auth: needs a key in auth.hmac, auth.public_keys or auth.jwks".into());
    }
    let hmac = auth.hmac.iter().map(Key::hmac).enumerate();
    let public = auth.public_keys.iter().map(Key::pem).enumerate();
    let tables =
        hmac.map(|(i, key)| ("hmac", i, key)).chain(public.map(|(i, key)| ("public_keys", i, key)));
    tables
        .filter_map(|(table, i, key)| {
            key.map_err(|(field, problem)| {
                problems.push(format!("auth.{table}[{i}].{field}: {problem}"));
            })
            .ok()
        })
        .collect()
}

/// All keys of a moment: the configured ones, then those of each source.
#[derive(Debug)]
pub(super) struct KeySet {
    groups: Vec<Arc<Vec<Key>>>,
}

impl KeySet {
    pub(super) fn new(configured: Vec<Key>, sources: usize) -> Self {
        let mut groups = vec![Arc::new(configured)];
        groups.resize_with(1 + sources, Arc::default);
        Self { groups }
    }

    /// The same set with the keys of one source replaced.
    pub(super) fn with_source(&self, source: usize, keys: Vec<Key>) -> Self {
        let mut groups = self.groups.clone();
        groups[1 + source] = Arc::new(keys);
        Self { groups }
    }

    /// Whether a key the token means made the signature. A token that names a key means the keys of that
    /// name; one that names none means those without a name, or the only key there is.
    pub(super) fn check(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &str,
        signature: &str,
    ) -> Result<(), TokenError> {
        let keys = || self.groups.iter().flat_map(|group| group.iter());
        let only = kid.is_none() && keys().nth(1).is_none();
        let mut error = TokenError::UnknownKey;
        for key in keys().filter(|key| only || key.kid.as_deref() == kid) {
            if key.algorithm == algorithm {
                if key.signed(message, signature) {
                    return Ok(());
                }
                error = TokenError::BadSignature;
            } else if error == TokenError::UnknownKey {
                error = TokenError::WrongAlgorithm;
            }
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, RS256};
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::testing::{SECRET, hmac, jwk, key_file, public};

    #[test]
    fn all_problems_are_told_with_their_place() {
        let weak = |algorithm, bytes: usize| config::Hmac {
            secret: SECRET[..bytes].into(),
            ..hmac("", algorithm)
        };
        let pem = |algorithm: &str, file: &str| config::PublicKey {
            kid: String::new(),
            algorithm: algorithm.into(),
            pem_file: key_file(file),
        };
        let auth = config::Auth {
            hmac: vec![
                weak(HS256, 31),
                weak(HS384, 47),
                weak(HS512, 63),
                weak(HS256, 32),
                config::Hmac { algorithm: "none".into(), ..hmac("", HS256) },
                config::Hmac { secret: format!("-----BEGIN {SECRET}"), ..hmac("", HS256) },
            ],
            public_keys: vec![
                pem("HS256", "rsa.pub.pem"),
                pem("RS256", "absent.pem"),
                pem("RS256", "rsa.pem"),
                pem("RS256", "p256.pub.pem"),
                pem("ES256", "p384.pub.pem"),
                pem("EdDSA", "p256.pub.pem"),
                pem("ES384", "ed25519.pub.pem"),
                pem("RS256", "README.md"),
                pem("PS512", "rsa.pub.pem"),
            ],
            ..config::Auth::default()
        };
        let mut problems = Vec::new();
        assert_eq!(static_keys(&auth, &mut problems).len(), 2);
        let places: Vec<_> = problems.iter().map(|p| p.split_once(':').unwrap().0).collect();
        assert_eq!(
            places,
            [
                "auth.hmac[0].secret",
                "auth.hmac[1].secret",
                "auth.hmac[2].secret",
                "auth.hmac[4].algorithm",
                "auth.hmac[5].secret",
                "auth.public_keys[0].algorithm",
                "auth.public_keys[1].pem_file",
                "auth.public_keys[2].pem_file",
                "auth.public_keys[3].pem_file",
                "auth.public_keys[4].pem_file",
                "auth.public_keys[5].pem_file",
                "auth.public_keys[6].pem_file",
                "auth.public_keys[7].pem_file",
            ]
        );
        assert!(!problems.iter().any(|p| p.contains(&SECRET[..16])), "{problems:?}");
    }

    #[test]
    fn no_key_at_all_is_a_problem() {
        let mut problems = Vec::new();
        static_keys(&config::Auth::default(), &mut problems);
        assert_eq!(problems.len(), 1);
        problems.clear();
        let auth =
            config::Auth { public_keys: vec![public("k", EdDSA)], ..config::Auth::default() };
        assert_eq!(static_keys(&auth, &mut problems).len(), 1);
        assert!(problems.is_empty(), "{problems:?}");
    }

    fn from(jwk: Value) -> Result<Algorithm, String> {
        Key::from_jwk(&serde_json::from_value(jwk).unwrap()).map(|key| key.algorithm)
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    #[test]
    fn a_jwk_has_its_own_algorithm_or_that_of_its_kind() {
        for algorithm in [RS256, PS256, ES256, ES384, EdDSA] {
            assert_eq!(from(jwk(algorithm, "k")), Ok(algorithm));
        }
        for (algorithm, inferred) in
            [(PS256, RS256), (ES256, ES256), (ES384, ES384), (EdDSA, EdDSA)]
        {
            let mut bare = jwk(algorithm, "k");
            bare.as_object_mut().unwrap().remove("alg");
            assert_eq!(from(bare), Ok(inferred));
        }
        assert!(from(with(jwk(ES256, "k"), "use", json!("sig"))).is_ok());
    }

    #[test]
    fn jwks_that_are_not_for_verifying_are_left_out() {
        let short = jwk(RS256, "k")["n"].as_str().unwrap()[..340].to_owned();
        for bad in [
            json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "k" }),
            json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
            json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }),
            with(jwk(RS256, "k"), "use", json!("enc")),
            with(jwk(RS256, "k"), "alg", json!("RSA-OAEP")),
            with(jwk(RS256, "k"), "alg", json!("HS256")),
            with(jwk(RS256, "k"), "alg", json!("ES256")),
            with(jwk(RS256, "k"), "n", json!(short)),
            with(jwk(ES256, "k"), "alg", json!("ES384")),
            with(jwk(ES256, "k"), "crv", json!("P-384")),
            with(jwk(ES256, "k"), "x", json!("AA")),
            with(jwk(ES256, "k"), "x", json!("not base64!")),
            with(jwk(EdDSA, "k"), "x", json!("AA")),
        ] {
            assert!(from(bad.clone()).is_err(), "{bad}");
        }
    }
}
