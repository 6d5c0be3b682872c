//! Keys and tokens for the tests of this module.

use std::path::PathBuf;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header};
use serde_json::{Value, json};

use crate::config;

/// The time in these tests.
pub(super) const NOW: i64 = 1_800_000_000;

/// Long enough for every hash.
pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A file of `tests/keys`.
pub(super) fn key_file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "keys", name].iter().collect()
}

/// The stem of the key file for an algorithm.
pub(super) fn stem(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "p256",
        Algorithm::ES384 => "p384",
        Algorithm::EdDSA => "ed25519",
        _ => "rsa",
    }
}

fn private(algorithm: Algorithm) -> EncodingKey {
    let pem = || std::fs::read(key_file(&format!("{}.pem", stem(algorithm)))).unwrap();
    match algorithm.family() {
        AlgorithmFamily::Hmac => EncodingKey::from_secret(SECRET.as_bytes()),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&pem()).unwrap(),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(&pem()).unwrap(),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(&pem()).unwrap(),
    }
}

/// A token signed with the test key of the algorithm.
pub(super) fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &private(algorithm)).unwrap()
}

/// The public JWK of the test key of the algorithm.
pub(super) fn jwk(algorithm: Algorithm, kid: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(&private(algorithm), algorithm).unwrap();
    jwk.common.key_id = Some(kid.to_owned());
    serde_json::to_value(jwk).unwrap()
}

/// Good claims.
pub(super) fn claims() -> Value {
    json!({ "sub": "ana", "projects": { "p1": "editor" }, "exp": NOW + 600 })
}

/// A shared secret of the algorithm.
pub(super) fn hmac(kid: &str, algorithm: Algorithm) -> config::Hmac {
    config::Hmac { kid: kid.into(), algorithm: format!("{algorithm:?}"), secret: SECRET.into() }
}

/// A public key of the algorithm.
pub(super) fn public(kid: &str, algorithm: Algorithm) -> config::PublicKey {
    config::PublicKey {
        kid: kid.into(),
        algorithm: format!("{algorithm:?}"),
        pem_file: key_file(&format!("{}.pub.pem", stem(algorithm))),
    }
}

/// A configuration whose one key is the shared secret, HS256, without a name.
pub(super) fn hs256() -> config::Auth {
    config::Auth { hmac: vec![hmac("", Algorithm::HS256)], ..config::Auth::default() }
}
