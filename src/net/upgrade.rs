//! `GET /v1/ws`: the WebSocket handshake (RFC 6455, section 4.2), then the socket leaves HTTP for good.
//!
//! A token that is not good does not fail the handshake: browsers cannot read a failed handshake's
//! status. The socket opens and closes with a code that says what to do.

use std::net::IpAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::Full;
use httparse::Header;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::first::{Rewound, unwind};
use super::guest::Guest;
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
pub(super) struct Handshake {
    accept: String,
    /// Whether the client offered our subprotocol, so that it is confirmed.
    subprotocol: bool,
    token: Option<String>,
    /// The client's address, as the nearest proxy says.
    forwarded: Option<IpAddr>,
}

/// The head of a request.
pub(super) struct Head<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a str,
    pub(super) headers: &'a [Header<'a>],
}

/// Answers a handshake and goes on with the socket in a task of its own, so that nothing of the handshake
/// stays with the connection.
pub(super) async fn accept(
    shard: Rc<Shard>,
    socket: TcpStream,
    handshake: Handshake,
    early: Bytes,
    guest: Guest,
) {
    let (verdict, ip) = decide(&shard.hub, &handshake, guest.ip).await;
    drop(guest); // from here on it counts as a connection
    let answer = Bytes::from(handshake.answer());
    spawn_local(connection::serve(shard, Accepted { socket, answer, early, ip, verdict }));
}

/// The same for a handshake that comes on a connection that was used for HTTP before.
///
/// # Errors
/// A refusal to send as an ordinary HTTP response.
pub(super) async fn upgrade(
    shard: &Rc<Shard>,
    mut request: Request<Incoming>,
    peer: IpAddr,
) -> Result<Response<Full<Bytes>>, Problem> {
    let headers: Vec<Header<'_>> = request
        .headers()
        .iter()
        .map(|(name, value)| Header { name: name.as_str(), value: value.as_bytes() })
        .collect();
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let head = Head { method: request.method().as_str(), target, headers: &headers };
    let handshake = read(&head, &shard.hub)?;
    let (verdict, ip) = decide(&shard.hub, &handshake, peer).await;
    let upgraded = hyper::upgrade::on(&mut request);
    let shard = shard.clone();
    spawn_local(async move {
        let socket = match upgraded.await {
            Ok(upgraded) => upgraded.downcast::<TokioIo<Rewound>>(),
            Err(_) => return shard.hub.relay.fanout.release(ip), // the peer was gone already
        };
        let unwound = socket.ok().and_then(|parts| {
            let (socket, rest) = unwind(parts.io.into_inner())?;
            Some((socket, Bytes::from([parts.read_buf, rest].concat())))
        });
        let Some((socket, early)) = unwound else {
            return tracing::error!("an upgraded connection is not a TCP socket");
        };
        let answer = Bytes::new();
        spawn_local(connection::serve(shard, Accepted { socket, answer, early, ip, verdict }));
    });
    Ok(handshake.response())
}

impl Handshake {
    /// The answer as bytes.
    fn answer(&self) -> String {
        let accept = &self.accept;
        let subprotocol = if self.subprotocol {
            format!("sec-websocket-protocol: {SUBPROTOCOL}\r\n")
        } else {
            String::new()
        };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: {accept}\r\n{subprotocol}\r\n"
        )
    }

    /// The answer for the HTTP server.
    fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if self.subprotocol {
            let name = HeaderValue::from_static(SUBPROTOCOL);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        }
        response
    }
}

/// Who connects from where, or the code the connection is to be closed with.
async fn decide(
    hub: &Hub,
    handshake: &Handshake,
    peer: IpAddr,
) -> (Result<Option<Claims>, CloseCode>, IpAddr) {
    let trusted = hub.config.server.trusted_proxies.contains(&peer);
    let ip = handshake.forwarded.filter(|_| trusted).unwrap_or(peer);
    let identity = match &handshake.token {
        None => Ok(None),
        Some(token) => hub.auth.authenticate(token, clock::now_s()).await.map(Some),
    };
    (admit(hub, ip, identity), ip)
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

/// Reads a handshake.
///
/// # Errors
/// It is none, or not one this hub takes.
pub(super) fn read(head: &Head<'_>, hub: &Hub) -> Result<Handshake, Problem> {
    let bad = |message: &str| Problem(Refusal::new(ErrorCode::BadRequest, message));
    let upgrade = head.lists("upgrade", "websocket") && head.lists("connection", "upgrade");
    if head.method != "GET" || !upgrade {
        return Err(bad("this is a WebSocket endpoint: connect with a WebSocket client"));
    }
    if head.first("sec-websocket-version").is_none_or(|version| version != b"13") {
        return Err(bad("Sec-WebSocket-Version must be 13"));
    }
    let key = head
        .first("sec-websocket-key")
        .filter(|key| key.len() == 24)
        .ok_or_else(|| bad("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    check_origin(head.first("origin"), &hub.config.server.allowed_origins)?;

    let offered: Vec<&str> = head.tokens("sec-websocket-protocol").collect();
    let subprotocol = offered.contains(&SUBPROTOCOL);
    if !offered.is_empty() && !subprotocol {
        return Err(bad("the subprotocol of this server is syncline.v1"));
    }
    let authorization = head.first("authorization").and_then(|value| str::from_utf8(value).ok());
    let token = authorization
        .and_then(credentials)
        .or_else(|| offered.iter().find_map(|p| p.strip_prefix(BEARER_PROTOCOL_PREFIX)))
        .or_else(|| hub.config.auth.query_token.then(|| head.query_token()).flatten())
        .map(str::to_owned);
    // The last entry is the one our own proxy wrote; those before it are the client's word.
    let forwarded = head.tokens("x-forwarded-for").last().and_then(|ip| ip.parse().ok());
    Ok(Handshake { accept: derive_accept_key(key), subprotocol, token, forwarded })
}

impl<'a> Head<'a> {
    /// Whether it is for the endpoint of sockets.
    pub(super) fn is_for_a_socket(&self) -> bool {
        self.target.split('?').next() == Some(PATH)
    }

    /// Whether something that is no frame may follow it.
    pub(super) fn has_body(&self) -> bool {
        self.first("content-length").is_some() || self.first("transfer-encoding").is_some()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named =
            self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value)
    }

    fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    fn tokens(&self, name: &str) -> impl Iterator<Item = &'a str> {
        let values = self.all(name).filter_map(|value| str::from_utf8(value).ok());
        values.flat_map(|value| value.split(',')).map(str::trim)
    }

    fn lists(&self, name: &str, wanted: &str) -> bool {
        self.tokens(name).any(|token| token.eq_ignore_ascii_case(wanted))
    }

    fn query_token(&self) -> Option<&'a str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix("token="))
    }
}

/// The bearer token of the `Authorization` header.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    credentials(headers.get(header::AUTHORIZATION)?.to_str().ok()?)
}

fn credentials(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn check_origin(origin: Option<&[u8]>, allowed: &[String]) -> Result<(), Problem> {
    let Some(origin) = origin else { return Ok(()) };
    let fits = |known: &String| known == "*" || origin == known.as_bytes();
    if allowed.iter().any(fits) {
        return Ok(());
    }
    let message = "this origin may not connect; add it to `server.allowed_origins`";
    Err(Problem(Refusal::new(ErrorCode::Forbidden, message)))
}
