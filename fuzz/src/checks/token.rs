//! Verifying tokens: nothing but a token somebody with the key made is ever believed.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arbitrary::Unstructured;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use syncline::auth::{self, Authenticator};
use syncline::config;

use super::{choose, number};

const NOW: i64 = 1_800_000_000;

const HEADERS: [&str; 10] = [
    r#"{"alg":"HS256","typ":"JWT"}"#,
    r#"{"alg":"none"}"#,
    r#"{"alg":"HS256","kid":"rsa"}"#,
    r#"{"alg":"RS256","kid":"rsa"}"#,
    r#"{"alg":"ES256","kid":"p256"}"#,
    r#"{"alg":"EdDSA","kid":"ed25519"}"#,
    r#"{"alg":"HS256","crit":["x"]}"#,
    r#"{"alg":"HS512"}"#,
    r#"{"alg":"HS256","alg":"none"}"#,
    r#"{"alg":"HS256","jwk":{"kty":"oct","k":""}}"#,
];

/// Tokens and the keys they are checked with.
struct Known {
    authenticator: Authenticator,
    good: String,
    expired: String,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let hmac = config::Hmac {
        kid: String::new(),
        algorithm: "HS256".into(),
        secret: "a secret of tests, long enough for HS256".into(),
    };
    let public = [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")].map(|(stem, name)| {
        let pem_file = keys().join(format!("{stem}.pub.pem"));
        config::PublicKey { kid: stem.into(), algorithm: name.into(), pem_file }
    });
    let claims =
        |exp| serde_json::json!({ "sub": "ana", "projects": { "p": "editor" }, "exp": exp });
    Known {
        good: auth::mint(&hmac, &claims(NOW + 600)).unwrap(),
        expired: auth::mint(&hmac, &claims(NOW - 6000)).unwrap(),
        authenticator: Authenticator::new(&config::Auth {
            hmac: vec![hmac],
            public_keys: public.into(),
            ..config::Auth::default()
        })
        .unwrap(),
    }
});

/// The test keys, seen from the package or from `fuzz/` beside them.
fn keys() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [here.join("tests/keys"), here.join("../tests/keys")];
    places.into_iter().find(|place| place.is_dir()).expect("the test keys")
}

/// Input: how to make a token, or to spoil a good one; then its text.
pub(super) fn check(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let token = match number(&mut input, 0..=3) {
        0 => String::from_utf8_lossy(input.take_rest()).into_owned(),
        1 => forged(&mut input),
        2 => spoilt(&mut input, &KNOWN.good),
        _ => spoilt(&mut input, &KNOWN.expired),
    };
    match KNOWN.authenticator.try_verify(&token, NOW) {
        Ok(_) => assert_eq!(token, KNOWN.good, "a token nobody made is believed"),
        Err(error) => {
            assert_ne!(token, KNOWN.good, "a good token is not believed: {error}");
            let text = error.to_string();
            assert!(text.len() < 200, "an error of {} bytes", text.len());
        }
    }
}

/// Any header, payload and signature, some borrowed from a good token.
fn forged(input: &mut Unstructured<'_>) -> String {
    let good: Vec<_> = KNOWN.good.split('.').collect();
    let header = match number(input, 0..=11) {
        0 => good[0].to_owned(),
        1 => part(input),
        _ => URL_SAFE_NO_PAD.encode(choose(input, &HEADERS)),
    };
    let payload =
        if input.arbitrary().unwrap_or_default() { good[1].to_owned() } else { part(input) };
    let signature = match number(input, 0..=2) {
        0 => String::new(),
        1 => good[2].to_owned(),
        _ => part(input),
    };
    // Whatever the choices, this is the one text that is a good token.
    if [&*header, &*payload, &*signature] == good[..] {
        String::new()
    } else {
        [header, payload, signature].join(".")
    }
}

fn part(input: &mut Unstructured<'_>) -> String {
    let length = usize::from(input.arbitrary::<u8>().unwrap_or_default()).min(input.len());
    URL_SAFE_NO_PAD.encode(input.bytes(length).unwrap_or_default())
}

/// A token with some bytes replaced, removed or added.
fn spoilt(input: &mut Unstructured<'_>, token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    for _ in 0..number(input, 0..=3) {
        let at = number(input, 0..=bytes.len() as u32) as usize;
        let byte = input.arbitrary::<u8>().unwrap_or_default() & 0x7f;
        match number(input, 0..=2) {
            0 if at < bytes.len() => bytes[at] = byte,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at, byte),
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}
