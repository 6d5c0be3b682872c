//! The command line as it is typed.

use clap::CommandFactory;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::json;

use super::*;
use crate::config::{Config, Hmac};

fn asked(words: &str) -> Token {
    let words = ["syncline", "token"].into_iter().chain(words.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Token(token) => token,
        other => panic!("not a token: {other:?}"),
    }
}

fn config() -> Config {
    let key = |kid: &str, algorithm: &str| Hmac {
        kid: kid.into(),
        algorithm: algorithm.into(),
        secret: kid.repeat(64),
    };
    let mut config = Config::default();
    config.auth.hmac = vec![key("a", "HS256"), key("b", "HS512")];
    config
}

fn claims(config: &Config, words: &str, key: &Hmac, algorithm: Algorithm) -> serde_json::Value {
    let token = token::token(config, &asked(words)).unwrap();
    let mut validation = Validation::new(algorithm);
    validation.validate_aud = false;
    let secret = DecodingKey::from_secret(key.secret.as_bytes());
    let decoded = decode::<serde_json::Value>(&token, &secret, &validation).unwrap();
    assert_eq!(decoded.header.kid.as_deref().unwrap_or_default(), key.kid);
    decoded.claims
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_token_says_what_was_asked() {
    let config = config();
    let words = "--user ana --project p1=editor --project p2 --ttl 10m --device phone";
    let claims = claims(&config, words, &config.auth.hmac[0], Algorithm::HS256);
    assert_eq!(claims["sub"], "ana");
    assert_eq!(claims["projects"], json!({ "p1": "editor", "p2": "viewer" }));
    assert_eq!(claims["device"], "phone");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    assert!(claims["jti"].is_string() && claims.get("iss").is_none());
}

#[test]
fn a_token_follows_the_configuration_and_the_key_asked_for() {
    let mut config = config();
    config.auth.user_claim = "uid".into();
    config.auth.projects_claim = "grants".into();
    config.auth.issuers = vec!["https://id".into()];
    config.auth.audiences = vec!["hub".into()];
    let key = config.auth.hmac[1].clone();
    let claims = claims(&config, "--user ana --project p --kid b", &key, Algorithm::HS512);
    assert_eq!((&claims["uid"], &claims["iss"]), (&json!("ana"), &json!("https://id")));
    assert_eq!((&claims["grants"], &claims["aud"]), (&json!({ "p": "viewer" }), &json!("hub")));
}

#[test]
fn a_token_that_cannot_be_is_explained() {
    let told =
        |config: &Config, words| token::token(config, &asked(words)).unwrap_err().to_string();
    assert!(told(&Config::default(), "--user ana").contains("use `--dev`"));
    assert!(told(&config(), "--user ana --kid z").contains("there are: \"a\", \"b\""));
    let error = told(&config(), "--user ana --project p=boss");
    assert!(error.contains("the roles are: admin, editor, viewer"), "{error}");
}

#[test]
fn mistakes_are_caught_while_reading_the_line() {
    for line in [
        "serve --listen localhost",
        "--set listen=1 serve",
        "--set server.listen serve",
        "token --user a:b",
        "token --user ana --project p/x",
        "token --user ana --ttl 5",
        "tail --token t --room lobby",
        "tail --token t",
    ] {
        let words = ["syncline"].into_iter().chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}

#[test]
fn dev_greets_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev { dev: true, data: Some(dir.path().join("here")) };
    let source = Source { file: None, set: Vec::from_iter(dev.store_url()) };
    let (loaded, info) = dev.apply(config::read(None, std::iter::empty(), &source.set)).unwrap();
    let config = loaded.checked().unwrap();
    let address = ([127, 0, 0, 1], 8080).into();
    let text = greeting::greeting(&config, &info.unwrap(), address, address, "syncline").unwrap();
    assert!(text.contains("here/dev-admin-token"), "{text}");
    assert!(!text.contains(&config.auth.admin_token), "{text}");
    assert!(!text.contains(&config.auth.hmac[0].secret), "{text}");
}

#[tokio::test]
async fn health_is_the_status_of_the_ready_endpoint() {
    use axum::http::StatusCode;
    use axum::routing::get;
    let status = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(200));
    let shown = std::sync::Arc::clone(&status);
    let ready = move || {
        let status = shown.load(std::sync::atomic::Ordering::Relaxed);
        async move { StatusCode::from_u16(status).unwrap() }
    };
    let router = axum::Router::new().route("/health/ready", get(ready));
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let url = health::admin_url(listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    assert_eq!(health::health(&url).await.unwrap(), ExitCode::SUCCESS);
    status.store(503, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(health::health(&format!("{url}/")).await.unwrap(), ExitCode::FAILURE);
    server.abort();
    let _ = server.await;
    assert!(health::health("http://127.0.0.1:1").await.is_err());
}
