use std::time::Duration;

use jsonwebtoken::Algorithm::{
    ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
};
use serde_json::{Value, json};

use super::*;
use crate::auth::testing::{NOW, claims, hmac, hs256, key_file, public, sign};

const ALL: [Algorithm; 12] =
    [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];

fn verifier(auth: &config::Auth) -> Verifier {
    let mut problems = Vec::new();
    let verifier = Verifier::new(auth, 0, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    verifier.unwrap()
}

fn auth_of(kid: &str, algorithm: Algorithm) -> config::Auth {
    let mut auth = config::Auth::default();
    match algorithm {
        HS256 | HS384 | HS512 => auth.hmac.push(hmac(kid, algorithm)),
        _ => auth.public_keys.push(public(kid, algorithm)),
    }
    auth
}

/// The verdict on claims signed with the one configured key, and `change` made to that configuration.
fn verdict(claims: &Value, change: impl FnOnce(&mut config::Auth)) -> Result<Claims, TokenError> {
    let mut auth = hs256();
    change(&mut auth);
    verifier(&auth).verify(&sign(HS256, None, claims), NOW)
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn raw_token(header: &str, rest: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), rest.split_once('.').unwrap().1)
}

#[test]
fn every_algorithm_verifies_its_own_tokens_and_no_others() {
    for ours in ALL {
        let verifier = verifier(&auth_of("k", ours));
        for theirs in ALL {
            let verdict = verifier.verify(&sign(theirs, Some("k"), &claims()), NOW);
            if ours == theirs {
                assert_eq!(verdict.unwrap().user.as_str(), "ana", "{ours:?}");
            } else {
                assert_eq!(verdict, Err(TokenError::WrongAlgorithm), "{ours:?} took {theirs:?}");
            }
        }
    }
}

#[test]
fn a_changed_token_is_refused() {
    for algorithm in ALL {
        let verifier = verifier(&auth_of("", algorithm));
        let token = sign(algorithm, None, &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = message.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(with("sub", json!("eve")).to_string());
        for forged in [
            format!("{header}.{other}.{signature}"),
            format!("{message}."),
            format!("{message}.AAAA"),
        ] {
            assert_eq!(
                verifier.verify(&forged, NOW),
                Err(TokenError::BadSignature),
                "{algorithm:?}"
            );
        }
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let pem = std::fs::read(key_file("rsa.pub.pem")).unwrap();
    let secret = jsonwebtoken::EncodingKey::from_secret(&pem);
    let mut header = jsonwebtoken::Header::new(HS256);
    header.kid = Some("k".into());
    let forged = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    let verifier = verifier(&auth_of("k", RS256));
    assert_eq!(verifier.verify(&forged, NOW), Err(TokenError::WrongAlgorithm));
}

#[test]
fn headers_that_ask_for_less_or_more_are_refused() {
    let verifier = verifier(&hs256());
    let good = sign(HS256, None, &claims());
    for (header, error) in [
        (r#"{"alg":"none"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"None"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"hs256"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"HS512"}"#, TokenError::WrongAlgorithm),
        (r#"{"alg":"HS256","crit":["exp"]}"#, TokenError::Critical),
        (r#"{"alg":"HS256","crit":[]}"#, TokenError::Critical),
        (r#"{"alg":"HS256","crit":null}"#, TokenError::Critical),
        (r#"{"alg":"none","alg":"HS256"}"#, TokenError::Malformed),
        (r#"{"typ":"JWT"}"#, TokenError::Malformed),
        (r#"["HS256"]"#, TokenError::Malformed),
        ("", TokenError::Malformed),
    ] {
        assert_eq!(verifier.verify(&raw_token(header, &good), NOW), Err(error), "{header}");
    }
    let unsigned = raw_token(r#"{"alg":"none"}"#, &good);
    let unsigned = unsigned.rsplit_once('.').unwrap().0;
    assert_eq!(verifier.verify(&format!("{unsigned}."), NOW), Err(TokenError::WrongAlgorithm));
}

#[test]
fn texts_that_are_no_tokens_are_refused() {
    let verifier = verifier(&hs256());
    assert_eq!(verifier.verify("", NOW), Err(TokenError::Missing));
    for text in
        ["x", ".", "..", "a.b", "a.b.c", "é.é.é", &format!("{}=.x.y", sign(HS256, None, &claims()))]
    {
        assert_eq!(verifier.verify(text, NOW), Err(TokenError::Malformed), "{text}");
    }
    let long = "x".repeat(MAX_TOKEN_BYTES + 1);
    assert!(matches!(verifier.verify(&long, NOW), Err(TokenError::TooLarge(_))));
}

#[test]
fn a_token_that_names_a_key_is_checked_with_that_key_only() {
    let mut auth = auth_of("old", HS256);
    auth.hmac.push(hmac("", HS512));
    auth.public_keys.push(public("rsa", RS256));
    let verifier = verifier(&auth);
    let verdict = |algorithm, kid| verifier.verify(&sign(algorithm, kid, &claims()), NOW).err();
    assert_eq!(verdict(HS256, Some("old")), None);
    assert_eq!(verdict(HS512, None), None);
    assert_eq!(verdict(RS256, Some("rsa")), None);
    for kid in ["new", "", "OLD", "old\0", "../../dev/null", "' OR 1=1 --"] {
        assert_eq!(verdict(HS256, Some(kid)), Some(TokenError::UnknownKey), "{kid}");
        assert_eq!(verdict(HS512, Some(kid)), Some(TokenError::UnknownKey), "{kid}");
    }
    // The key of another algorithm, and a named key that the token does not name.
    assert_eq!(verdict(HS256, Some("rsa")), Some(TokenError::WrongAlgorithm));
    assert_eq!(verdict(RS256, None), Some(TokenError::WrongAlgorithm));
    assert_eq!(verdict(HS256, None), Some(TokenError::WrongAlgorithm));
}

#[test]
fn a_token_without_a_key_name_may_use_the_only_key() {
    let one = verifier(&auth_of("k", ES256));
    assert!(one.verify(&sign(ES256, None, &claims()), NOW).is_ok());
    let mut two = auth_of("k", ES256);
    two.hmac.push(hmac("other", HS256));
    let two = verifier(&two);
    assert_eq!(two.verify(&sign(ES256, None, &claims()), NOW), Err(TokenError::UnknownKey));
}

#[test]
fn expiry_and_start_hold_to_the_second_with_leeway() {
    let leeway = |auth: &mut config::Auth| auth.leeway = Duration::from_secs(5);
    let exp = |exp: Value| verdict(&with("exp", exp), leeway).err();
    assert_eq!(exp(json!(NOW + 1)), None);
    assert_eq!(exp(json!(NOW - 4)), None);
    assert_eq!(exp(json!(NOW - 5)), Some(TokenError::Expired));
    assert_eq!(exp(json!(NOW as f64 - 4.0 + 0.5)), None);
    assert_eq!(exp(json!(i64::MAX)), None);
    assert_eq!(exp(json!(1e300)), None);
    assert_eq!(exp(json!(i64::MIN)), Some(TokenError::Expired));
    let nbf = |nbf: i64| verdict(&with("nbf", json!(nbf)), leeway).err();
    assert_eq!(nbf(NOW + 5), None);
    assert_eq!(nbf(NOW + 6), Some(TokenError::NotYetValid));
    let claims = verdict(&with("exp", json!(NOW + 7)), leeway).unwrap();
    assert_eq!(claims.expires_at, NOW + 7, "leeway is not part of the time told");
}

#[test]
fn issuer_and_audience_are_asked_for_where_configured() {
    let from_us = |auth: &mut config::Auth| auth.issuers = vec!["us".into(), "them".into()];
    let iss = |iss: Value| verdict(&with("iss", iss), from_us).err();
    assert_eq!(iss(json!("them")), None);
    assert_eq!(iss(json!("eve")), Some(TokenError::WrongIssuer));
    assert_eq!(iss(Value::Null), Some(TokenError::WrongIssuer));
    assert_eq!(verdict(&claims(), from_us).err(), Some(TokenError::WrongIssuer));

    let for_us = |auth: &mut config::Auth| auth.audiences = vec!["hub".into()];
    let aud = |aud: Value| verdict(&with("aud", aud), for_us).err();
    assert_eq!(aud(json!("hub")), None);
    assert_eq!(aud(json!(["x", "h\u{75}b"])), None);
    assert_eq!(aud(json!(["x"])), Some(TokenError::WrongAudience));
    assert_eq!(aud(json!([])), Some(TokenError::WrongAudience));
    assert_eq!(verdict(&claims(), for_us).err(), Some(TokenError::WrongAudience));
    assert!(matches!(aud(json!(7)), Some(TokenError::BadClaims(_))));

    assert!(verdict(&with("aud", json!("any")), |_| ()).is_ok());
}

#[test]
fn refusals_tell_a_client_what_to_do() {
    for (error, code) in [
        (TokenError::Expired, ErrorCode::TokenExpired),
        (TokenError::Revoked, ErrorCode::TokenRevoked),
        (TokenError::Missing, ErrorCode::Unauthorized),
        (TokenError::UnknownKey, ErrorCode::Unauthorized),
        (TokenError::BadClaims("x".into()), ErrorCode::Unauthorized),
    ] {
        assert_eq!(error.refusal().code, code);
    }
}

#[test]
fn no_secret_is_shown() {
    let shown = format!("{:?}", verifier(&hs256()));
    assert!(shown.contains("HS256") && !shown.contains(crate::auth::testing::SECRET), "{shown}");
    assert!(!shown.contains("48, 49, 50"), "{shown}");
}
