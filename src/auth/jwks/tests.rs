//! Real documents from a real HTTP server on the loopback, and from files. Intervals are either so long
//! that they cannot pass or so short that they do not matter; everything else waits for a condition.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::Algorithm::{self, ES256, EdDSA, HS256, RS256};
use serde_json::json;

use super::*;
use crate::auth::testing::{NOW, claims, jwk, sign};
use crate::auth::{Authenticator, TokenError};

const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(20);

fn timing() -> Timing {
    Timing {
        throttle: Duration::ZERO,
        back_off_min: NEVER,
        back_off_max: NEVER,
        poll: NEVER,
        patience: DEADLINE,
    }
}

fn document(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn token(algorithm: Algorithm, kid: &str) -> String {
    sign(algorithm, Some(kid), &claims())
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(SOON).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A key server whose answer the test changes, and that counts how often it is asked.
#[derive(Default)]
struct Server {
    answer: Mutex<(StatusCode, String)>,
    asked: AtomicUsize,
}

impl Server {
    fn answers(&self, status: StatusCode, body: impl Into<String>) {
        *lock(&self.answer) = (status, body.into());
    }

    fn serves(&self, keys: &[Value]) {
        self.answers(StatusCode::OK, document(keys));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn answer(State(server): State<Arc<Server>>) -> Response {
    server.asked.fetch_add(1, Ordering::SeqCst);
    let (status, body) = lock(&server.answer).clone();
    (status, [("location", "/elsewhere")], body).into_response()
}

/// A running key server and an authenticator that uses it; both end with it.
struct Setup {
    server: Arc<Server>,
    authenticator: Arc<Authenticator>,
    shutdown: CancellationToken,
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn setup(timing: Timing, first: &[Value]) -> Setup {
    let server = Arc::new(Server::default());
    server.serves(first);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&server));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone().cancelled_owned();
    tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(stop).into_future());

    let jwks = config::Jwks { url, ..config::Jwks::default() };
    let authenticator = authenticator(vec![jwks], timing);
    tokio::spawn(Arc::clone(&authenticator).run(shutdown.clone()));
    eventually("the first fetch", || {
        server.asked() > 0 && !lock(&authenticator.sources()[0].demand).pending
    })
    .await;
    Setup { server, authenticator, shutdown }
}

fn authenticator(jwks: Vec<config::Jwks>, timing: Timing) -> Arc<Authenticator> {
    let auth = config::Auth { jwks, ..config::Auth::default() };
    Arc::new(Authenticator::with_timing(&auth, timing).unwrap())
}

#[tokio::test]
async fn a_key_that_appears_is_found_and_one_that_goes_is_gone() {
    let setup = setup(timing(), &[jwk(ES256, "one")]).await;
    let (old, new) = (token(ES256, "one"), token(RS256, "two"));
    assert!(setup.authenticator.try_verify(&old, NOW).is_ok());
    assert_eq!(setup.authenticator.try_verify(&new, NOW), Err(TokenError::UnknownKey));

    setup.server.serves(&[jwk(RS256, "two"), jwk(EdDSA, "three")]);
    assert!(setup.authenticator.authenticate(&new, NOW).await.is_ok());
    assert_eq!(setup.server.asked(), 2);
    assert_eq!(setup.authenticator.try_verify(&old, NOW), Err(TokenError::UnknownKey));
    assert!(setup.authenticator.try_verify(&token(EdDSA, "three"), NOW).is_ok());
}

#[tokio::test]
async fn symmetric_keys_of_a_key_set_are_not_believed() {
    let secret =
        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg";
    let oct = json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": secret });
    let setup = setup(timing(), &[oct, jwk(ES256, "e")]).await;
    assert!(setup.authenticator.try_verify(&token(ES256, "e"), NOW).is_ok());
    let verdict = setup.authenticator.authenticate(&token(HS256, "s"), NOW).await;
    assert_eq!(verdict, Err(TokenError::UnknownKey));
}

#[tokio::test]
async fn failures_keep_the_old_keys() {
    let setup = setup(timing(), &[jwk(ES256, "one")]).await;
    let (old, new) = (token(ES256, "one"), token(RS256, "two"));
    let huge = format!("{}{}", document(&[jwk(RS256, "two")]), " ".repeat(MAX_BYTES));
    let many = vec![jwk(RS256, "two"); MAX_KEYS + 1];
    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, document(&[jwk(RS256, "two")])),
        (StatusCode::FOUND, document(&[jwk(RS256, "two")])),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, "{}".to_owned()),
        (StatusCode::OK, huge),
        (StatusCode::OK, document(&many)),
    ] {
        setup.server.answers(status, body);
        let asked = setup.server.asked();
        let verdict = setup.authenticator.authenticate(&new, NOW).await;
        assert_eq!(verdict, Err(TokenError::UnknownKey), "{status}");
        assert_eq!(setup.server.asked(), asked + 1, "a redirect was followed, or nobody asked");
        assert!(setup.authenticator.try_verify(&old, NOW).is_ok(), "{status}");
    }
    setup.server.serves(&[]);
    assert_eq!(setup.authenticator.authenticate(&new, NOW).await, Err(TokenError::UnknownKey));
    assert_eq!(setup.authenticator.try_verify(&old, NOW), Err(TokenError::UnknownKey));
}

#[tokio::test]
async fn failures_are_tried_again_without_being_asked() {
    let timing = Timing { back_off_min: SOON, back_off_max: Duration::from_millis(20), ..timing() };
    let setup = setup(Timing { throttle: NEVER, ..timing }, &[]).await;
    let new = token(RS256, "two");
    setup.server.answers(StatusCode::SERVICE_UNAVAILABLE, "");
    // The one refresh a stranger may ask for; from here on the source is on its own.
    let verdict = setup.authenticator.authenticate(&new, NOW).await;
    assert_eq!(verdict, Err(TokenError::UnknownKey));
    eventually("further tries", || setup.server.asked() > 4).await;
    setup.server.serves(&[jwk(RS256, "two")]);
    eventually("the new key", || setup.authenticator.try_verify(&new, NOW).is_ok()).await;
}

#[tokio::test]
async fn strangers_cannot_make_the_hub_fetch_more_than_once_in_a_while() {
    let setup = setup(Timing { throttle: NEVER, ..timing() }, &[jwk(ES256, "one")]).await;
    let tokens: Vec<_> = (0..50).map(|i| token(ES256, &format!("made-up-{i}"))).collect();
    let verdicts = tokens.iter().map(|token| setup.authenticator.authenticate(token, NOW));
    for verdict in futures_util::future::join_all(verdicts).await {
        assert_eq!(verdict, Err(TokenError::UnknownKey));
    }
    for token in &tokens {
        assert!(setup.authenticator.authenticate(token, NOW).await.is_err());
    }
    assert_eq!(setup.server.asked(), 2, "the first fetch, and one for all strangers");
    assert!(setup.authenticator.try_verify(&token(ES256, "one"), NOW).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_waits_a_bounded_time() {
    // Nobody runs the source, so the refresh never comes; the paused clock passes the time.
    let jwks = config::Jwks { url: "http://127.0.0.1:9/".into(), ..config::Jwks::default() };
    let authenticator = authenticator(vec![jwks], Timing::default());
    let before = Instant::now();
    let verdict = authenticator.authenticate(&token(ES256, "one"), NOW).await;
    assert_eq!(verdict, Err(TokenError::UnknownKey));
    assert_eq!(before.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let write = |text: String| {
        let next = dir.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    };
    write(document(&[jwk(ES256, "one")]));
    let jwks = config::Jwks { file: file.clone(), ..config::Jwks::default() };
    let timing = Timing { poll: SOON, back_off_min: SOON, back_off_max: SOON, ..timing() };
    let authenticator = authenticator(vec![jwks], timing);
    let (one, two) = (token(ES256, "one"), token(RS256, "two"));
    assert!(authenticator.try_verify(&one, NOW).is_ok(), "read before anything runs");

    let shutdown = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&authenticator).run(shutdown.clone()));
    write("half a docum".into());
    write(document(&[jwk(RS256, "two")]));
    eventually("the new key", || authenticator.try_verify(&two, NOW).is_ok()).await;
    assert_eq!(authenticator.try_verify(&one, NOW), Err(TokenError::UnknownKey));
    shutdown.cancel();
    tokio::time::timeout(DEADLINE, running).await.expect("it stops").unwrap();
}

#[test]
fn sources_that_cannot_be_are_problems_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("jwks.json");
    std::fs::write(&broken, "{").unwrap();
    let file = |file: PathBuf| config::Jwks { file, ..config::Jwks::default() };
    let url = |url: &str| config::Jwks { url: url.into(), ..config::Jwks::default() };
    let auth = config::Auth {
        jwks: vec![
            config::Jwks::default(),
            config::Jwks { url: "https://a.example".into(), ..file(broken.clone()) },
            file(dir.path().join("absent")),
            file(broken),
            url("http://a.example/jwks"),
            url("http://127.0.0.1.a.example/jwks"),
            url("file:///etc/passwd"),
            url("no url"),
            config::Jwks { refresh: Duration::ZERO, ..url("https://a.example") },
            url("https://a.example/jwks"),
            url("http://[::1]:8000/jwks"),
            url("http://localhost/jwks"),
        ],
        admin_token: "short".into(),
        default_role: String::new(),
        ..config::Auth::default()
    };
    let problems = Authenticator::new(&auth).unwrap_err();
    let places: Vec<_> = problems.iter().map(|p| p.split_once(':').unwrap().0).collect();
    assert_eq!(
        places,
        [
            "auth.default_role",
            "auth.jwks[0]",
            "auth.jwks[1]",
            "auth.jwks[2].file",
            "auth.jwks[3].file",
            "auth.jwks[4].url",
            "auth.jwks[5].url",
            "auth.jwks[6].url",
            "auth.jwks[7].url",
            "auth.jwks[8].refresh",
            "auth.admin_token",
        ]
    );
}

#[test]
fn back_off_grows_to_its_limit_and_spreads() {
    let seconds = |failures, random| back_off(failures, Timing::default(), random).as_secs_f64();
    assert_eq!([1, 2, 3, 6, 1000].map(|n| seconds(n, 1.0)), [2.0, 4.0, 8.0, 60.0, 60.0]);
    assert_eq!([1, 2, 1000].map(|n| seconds(n, 0.0)), [1.0, 1.0, 1.0]);
    assert_eq!(seconds(3, 0.5), 4.5);
}
