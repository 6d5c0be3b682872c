//! `GET /v1/ws`: the WebSocket handshake (RFC 6455, section 4.2), then the socket leaves HTTP for good.
//!
//! A token that is not good does not fail the handshake: browsers cannot read a failed handshake's
//! status. The socket opens and closes with a code that says what to do.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::problem::Problem;
use crate::auth::{Claims, TokenError};
use crate::clock;
use crate::hub::Hub;
use crate::protocol::error::{CloseCode, ErrorCode, Refusal};
use crate::protocol::{BEARER_PROTOCOL_PREFIX, SUBPROTOCOL};
use crate::session::connection::{self, Accepted};
use crate::session::shard::Shard;
use crate::telemetry::RateLimit;

/// The path clients connect to.
pub const PATH: &str = "/v1/ws";

/// What the handshake asked for.
struct Handshake {
    accept: String,
    /// Whether the client offered our subprotocol, so that it is confirmed.
    subprotocol: bool,
    token: Option<String>,
}

/// Answers a handshake and, if it is one, goes on with the socket in a task of its own.
///
/// # Errors
/// A refusal to send as an ordinary HTTP response.
pub async fn upgrade(
    shard: &Rc<Shard>,
    mut request: Request<Incoming>,
    ip: IpAddr,
) -> Result<Response<Full<Bytes>>, Problem> {
    let hub = &shard.hub;
    let handshake = read(&request, hub)?;
    let identity = match &handshake.token {
        None => Ok(None),
        Some(token) => hub.auth.authenticate(token, clock::now_s()).await.map(Some),
    };
    let verdict = admit(hub, ip, identity);
    let upgraded = hyper::upgrade::on(&mut request);
    let shard = shard.clone();
    spawn_local(async move {
        let socket = match upgraded.await {
            Ok(upgraded) => upgraded.downcast::<TokioIo<TcpStream>>(),
            Err(_) => return shard.hub.relay.fanout.release(ip), // the peer was gone already
        };
        let Ok(parts) = socket else {
            return tracing::error!("an upgraded connection is not a TCP socket");
        };
        let socket = parts.io.into_inner();
        let accepted = Accepted { socket, early: parts.read_buf, ip, verdict };
        // A task of its own, so that nothing of the handshake stays with the connection.
        spawn_local(connection::serve(shard, accepted));
    });
    Ok(switch(&handshake))
}

fn switch(handshake: &Handshake) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(accept) = HeaderValue::from_str(&handshake.accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if handshake.subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

/// Counts the connection in, or says with which code it is to be closed.
fn admit(
    hub: &Hub,
    ip: IpAddr,
    identity: Result<Option<Claims>, TokenError>,
) -> Result<Option<Claims>, CloseCode> {
    hub.relay.fanout.admit(ip);
    if hub.draining.is_cancelled() {
        return Err(CloseCode::ShuttingDown);
    }
    let limits = &hub.config.limits;
    let refused = |what: RateLimit, code| {
        hub.metrics.rate_limited.of(what).inc();
        Err(code)
    };
    if hub.relay.fanout.connections() > limits.connections {
        return refused(RateLimit::Connections, CloseCode::OverCapacity);
    }
    if hub.memory.is_high() {
        return refused(RateLimit::Memory, CloseCode::OverCapacity);
    }
    if hub.relay.fanout.connections_from(ip) > limits.connections_per_ip {
        return refused(RateLimit::ConnectionsPerIp, CloseCode::RateLimited);
    }
    identity.map_err(|error| {
        hub.metrics.auth_failures.of((&error).into()).inc();
        match error.refusal().code {
            ErrorCode::TokenExpired => CloseCode::TokenExpired,
            ErrorCode::TokenRevoked => CloseCode::TokenRevoked,
            _ => CloseCode::Unauthorized,
        }
    })
}

fn read(request: &Request<Incoming>, hub: &Hub) -> Result<Handshake, Problem> {
    let bad = |message: &str| Problem(Refusal::new(ErrorCode::BadRequest, message));
    let headers = request.headers();
    let upgrade = lists(headers, &header::UPGRADE, "websocket")
        && lists(headers, &header::CONNECTION, "upgrade");
    if request.method() != Method::GET || !upgrade {
        return Err(bad("this is a WebSocket endpoint: connect with a WebSocket client"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("Sec-WebSocket-Version must be 13"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| key.len() == 24)
        .ok_or_else(|| bad("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    check_origin(headers, &hub.config.server.allowed_origins)?;

    let offered: Vec<&str> = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let subprotocol = offered.contains(&SUBPROTOCOL);
    if !offered.is_empty() && !subprotocol {
        return Err(bad("the subprotocol of this server is syncline.v1"));
    }
    let token = bearer(headers)
        .or_else(|| offered.iter().find_map(|p| p.strip_prefix(BEARER_PROTOCOL_PREFIX)))
        .map(str::to_owned)
        .or_else(|| hub.config.auth.query_token.then(|| query_token(request)).flatten());
    Ok(Handshake { accept: derive_accept_key(key.as_bytes()), subprotocol, token })
}

/// The bearer token of the `Authorization` header.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn query_token(request: &Request<Incoming>) -> Option<String> {
    let query = request.uri().query()?;
    query.split('&').find_map(|pair| pair.strip_prefix("token=")).map(str::to_owned)
}

fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let fits = |known: &String| known == "*" || origin.as_bytes() == known.as_bytes();
    if allowed.iter().any(fits) {
        return Ok(());
    }
    let message = "this origin may not connect; add it to `server.allowed_origins`";
    Err(Problem(Refusal::new(ErrorCode::Forbidden, message)))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}
