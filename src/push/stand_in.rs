//! A stand-in for the Expo push service: a small HTTP server that speaks its protocol, keeps what it was
//! sent, and misbehaves as told. Run by hand with `syncline dev expo-stand-in`, and by the tests.
//!
//! `POST /stand-in/script` says how to behave ([`Script`]), `GET /stand-in/log` shows what happened
//! ([`Log`]), `GET /stand-in/messages` the messages, `POST /stand-in/reset` forgets all of it.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flate2::read::GzDecoder;
use futures_util::stream;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock;

mod script;

use script::Tally;
pub use script::{Behaviour, Log, Script, Sent};

/// Bytes of a request, unpacked.
const BODY: u64 = 8 << 20;
/// Recipients in one request.
const RECIPIENTS: usize = 100;
/// Ids in one request for receipts.
const RECEIPTS: usize = 1000;

/// A stand-in; stopped when it is dropped.
#[derive(Debug)]
pub struct StandIn {
    /// Where it listens.
    pub address: SocketAddr,
    state: Shared,
    stop: CancellationToken,
}

type Shared = Arc<Mutex<Tally>>;

fn locked(state: &Shared) -> MutexGuard<'_, Tally> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StandIn {
    /// Serves on this address.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn start(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (state, stop) = (Shared::default(), CancellationToken::new());
        let (app, stopped) = (router(state.clone()), stop.clone());
        tokio::spawn(async move {
            // Until it is told to stop: what is open then is dropped, as a service that dies does.
            if let Some(Err(error)) =
                stopped.run_until_cancelled(async { axum::serve(listener, app).await }).await
            {
                tracing::error!(%error, "the stand-in stopped");
            }
        });
        Ok(Self { address, state, stop })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how it behaves from now on.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut locked(&self.state).script);
    }

    /// Answers one request that hangs.
    pub fn release(&self) {
        locked(&self.state).release.notify_one();
    }

    /// What happened so far.
    #[must_use]
    pub fn log(&self) -> Log {
        locked(&self.state).log.clone()
    }

    /// The messages it accepted, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        locked(&self.state).sent.iter().cloned().collect()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn router(state: Shared) -> Router {
    Router::new()
        .route("/--/api/v2/push/send", post(send))
        .route("/--/api/v2/push/getReceipts", post(receipts))
        .route("/stand-in/script", post(script))
        .route("/stand-in/log", get(async |State(s): State<Shared>| Json(locked(&s).log.clone())))
        .route("/stand-in/messages", get(messages))
        .route(
            "/stand-in/reset",
            post(async |State(s): State<Shared>| *locked(&s) = Tally::default()),
        )
        .layer(DefaultBodyLimit::max(8 << 20))
        .with_state(state)
}

async fn script(State(state): State<Shared>, Json(script): Json<Script>) {
    locked(&state).script = script;
}

async fn messages(State(state): State<Shared>) -> Json<Value> {
    let sent: Vec<Sent> = locked(&state).sent.iter().cloned().collect();
    Json(json!(sent))
}

fn error(status: u16, code: &str, details: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let transient = status.as_u16() == 429 || status.is_server_error();
    let error =
        json!({ "code": code, "message": code, "details": details, "isTransient": transient });
    (status, Json(json!({ "errors": [error] }))).into_response()
}

fn html(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let page = "<html><body><h1>The service is not available</h1></body></html>";
    (status, [(header::CONTENT_TYPE, "text/html")], page).into_response()
}

/// Half an answer, then the connection breaks.
fn reset() -> Response {
    let parts = [Ok(Bytes::from_static(b"{\"data\":[{\"sta")), Err(std::io::Error::other("reset"))];
    Body::from_stream(stream::iter(parts)).into_response()
}

/// The body as JSON, unpacked if it says so.
fn body(headers: &HeaderMap, raw: &Bytes, tally: &mut Tally) -> Option<Value> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|v| v == "gzip") {
        tally.log.compressed += 1;
        let mut text = Vec::new();
        GzDecoder::new(&raw[..]).take(BODY).read_to_end(&mut text).ok()?;
        return serde_json::from_slice(&text).ok();
    }
    if raw.len() > 1024 {
        tally.log.large_uncompressed += 1;
    }
    serde_json::from_slice(raw).ok()
}

/// Whether this request is let in at all.
fn let_in(headers: &HeaderMap, tally: &mut Tally) -> Option<Response> {
    tally.log.requests += 1;
    if tally.script.down {
        tally.log.refused += 1;
        return Some(html(503));
    }
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let wanted = tally.script.access_token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted.as_deref() != bearer {
        tally.log.refused += 1;
        let answer = Json(json!({ "error": "invalid_token" }));
        return Some((StatusCode::UNAUTHORIZED, answer).into_response());
    }
    None
}

/// If this request is to hang, what lets it go on.
fn hangs(tally: &mut Tally) -> Option<Arc<Notify>> {
    if tally.script.next.front() != Some(&Behaviour::Hang) {
        return None;
    }
    tally.script.next.pop_front();
    tally.log.hanging += 1;
    Some(tally.release.clone())
}

async fn send(State(state): State<Shared>, headers: HeaderMap, raw: Bytes) -> Response {
    let release = hangs(&mut locked(&state));
    if let Some(release) = &release {
        release.notified().await;
    }
    let tally = &mut *locked(&state);
    if let Some(refused) = let_in(&headers, tally) {
        return refused;
    }
    let behaviour = if release.is_some() { None } else { tally.script.next_behaviour() };
    if let Some(answer) = behaviour.as_ref().and_then(|how| misbehave(how, tally)) {
        return answer;
    }
    let list = match body(&headers, &raw, tally) {
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
        None => return error(400, "VALIDATION_ERROR", &Value::Null),
    };
    if let Some(refused) = refuse(&list, tally) {
        return refused;
    }
    let mut tickets: Vec<Value> = Vec::new();
    for message in &list {
        for token in recipients(message) {
            tickets.push(tally.accept(&token, message));
        }
    }
    match behaviour {
        Some(Behaviour::AcceptThen504) => html(504),
        Some(Behaviour::AcceptThenReset) => reset(),
        Some(Behaviour::WrongCount) => {
            tickets.pop();
            Json(json!({ "data": tickets })).into_response()
        }
        _ if tickets.len() == 1 => Json(json!({ "data": tickets[0] })).into_response(),
        _ => Json(json!({ "data": tickets })).into_response(),
    }
}

/// The answer of one who does not even look at the request.
fn misbehave(how: &Behaviour, tally: &mut Tally) -> Option<Response> {
    match how {
        Behaviour::Status { status, retry_after, dated } => {
            tally.log.refused += 1;
            let mut response = if *status == 429 {
                error(429, "TOO_MANY_REQUESTS", &Value::Null)
            } else {
                html(*status)
            };
            if let Some(seconds) = retry_after {
                let wait = if *dated { date_in(*seconds) } else { (*seconds).into() };
                response.headers_mut().insert(header::RETRY_AFTER, wait);
            }
            Some(response)
        }
        Behaviour::ErrorsWithOk => Some(error(200, "TOO_MANY_REQUESTS", &Value::Null)),
        Behaviour::NotJson => Some("OK".into_response()),
        _ => None,
    }
}

/// In so many seconds, as headers say it.
fn date_in(seconds: u32) -> HeaderValue {
    let at = Timestamp::from_millisecond(clock::now_ms() + 1000 * i64::from(seconds));
    let date = at.and_then(|at| rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at));
    let date = date.ok().and_then(|date| date.try_into().ok());
    date.unwrap_or_else(|| HeaderValue::from_static(""))
}

/// Why the service would not take these messages.
fn refuse(list: &[Value], tally: &mut Tally) -> Option<Response> {
    let tokens: Vec<String> = list.iter().flat_map(recipients).collect();
    if tokens.len() > RECIPIENTS {
        tally.log.too_large += 1;
        return Some(error(400, "PUSH_TOO_MANY_NOTIFICATIONS", &Value::Null));
    }
    if !tally.within_rate(tokens.len()) {
        return Some(error(429, "TOO_MANY_REQUESTS", &Value::Null));
    }
    let mut projects = tally.script.projects_of(&tokens);
    if projects.len() > 1 {
        tally.log.mixed += 1;
        for named in projects.values_mut() {
            named.retain(|token| !tally.script.unnamed.contains(token));
        }
        return Some(error(400, "PUSH_TOO_MANY_EXPERIENCE_IDS", &json!(projects)));
    }
    let spoilt = |message| recipients(message).is_empty() || tally.script.is_invalid(message);
    list.iter().any(spoilt).then(|| error(400, "VALIDATION_ERROR", &Value::Null))
}

fn recipients(message: &Value) -> Vec<String> {
    match &message["to"] {
        Value::String(token) => vec![token.clone()],
        Value::Array(tokens) => {
            tokens.iter().filter_map(|token| Some(token.as_str()?.to_owned())).collect()
        }
        _ => Vec::new(),
    }
}

async fn receipts(State(state): State<Shared>, headers: HeaderMap, raw: Bytes) -> Response {
    let tally = &mut *locked(&state);
    if let Some(refused) = let_in(&headers, tally) {
        return refused;
    }
    if tally.script.receipts_down {
        tally.log.refused += 1;
        return html(503);
    }
    let Some(body) = body(&headers, &raw, tally) else {
        return error(400, "VALIDATION_ERROR", &Value::Null);
    };
    let ids: Vec<String> = serde_json::from_value(body["ids"].clone()).unwrap_or_default();
    if ids.len() > RECEIPTS {
        return error(400, "PUSH_TOO_MANY_RECEIPTS", &Value::Null);
    }
    if ids.iter().any(String::is_empty) {
        return error(400, "VALIDATION_ERROR", &Value::Null);
    }
    tally.log.receipts_asked += ids.len();
    let receipts: HashMap<&String, Value> =
        ids.iter().filter_map(|id| Some((id, tally.receipt(id)?))).collect();
    Json(json!({ "data": receipts })).into_response()
}
