//! The public listener: one socket, accepted on by every shard; a connection is a WebSocket from its first
//! request on, or is served as HTTP/1.1.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{Duration, sleep, timeout};
use tower_service::Service;

use super::first::{self, First, Rewound, rewind};
use super::guest::{Bouncer, Guest};
use super::upgrade;
use crate::session::shard::Shard;

/// Bytes of a request's head, a token in a header included.
pub(super) const HEAD_BYTES: usize = 32 << 10;

/// Unsent bytes the kernel keeps for one connection, where it can be told. Its own bound is the send buffer,
/// megabytes of it, which nobody here counts and which a client that reads nothing would fill.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// Opens a listening socket with a queue long enough for a storm of connects: Tokio's own `bind` asks for
/// 1024 at most, and what does not fit waits a second for its SYN to be sent again. What is set here,
/// accepted sockets inherit, so it costs them no call.
///
/// # Errors
/// The address is taken or not ours.
pub fn bind(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Accepts and serves on one shard until the hub drains. The listening socket is shared by all shards:
/// whichever is idle takes the next connection.
pub async fn serve(shard: Rc<Shard>, listener: TcpListener, api: Router) {
    let draining = shard.hub.draining.clone();
    let bouncer = Bouncer::new(shard.clone());
    while let Some(accepted) = draining.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, peer)) => match Guest::admit(&shard.hub, peer.ip().to_canonical()) {
                Some(guest) => drop(spawn_local(begin(shard.clone(), socket, guest, api.clone()))),
                None => bouncer.turn_away(socket),
            },
            // Out of file descriptors, or the peer is gone: others can still be served.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Serves one connection until it ends or becomes a WebSocket.
async fn begin(shard: Rc<Shard>, socket: TcpStream, guest: Guest, api: Router) {
    let patience = shard.hub.config.server.connect_timeout;
    match timeout(patience, first::read(&shard, &socket)).await {
        Ok(First::Handshake(handshake, early)) => {
            upgrade::accept(shard, socket, handshake, early, guest).await;
        }
        // On the heap, so that a handshake's task has no room for an HTTP server.
        Ok(First::Other(read)) => {
            let socket = rewind(socket, read, shard.hub.config.server.write_timeout);
            Box::pin(http(shard, socket, guest, api)).await;
        }
        Ok(First::Gone) | Err(_) => {}
    }
}

async fn http(shard: Rc<Shard>, socket: Rewound, guest: Guest, api: Router) {
    let patience = shard.hub.config.server.connect_timeout;
    let service = service_fn(move |request| answer(shard.clone(), request, guest.ip, api.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

async fn answer(
    shard: Rc<Shard>,
    request: Request<Incoming>,
    peer: IpAddr,
    mut api: Router,
) -> Result<Response<Body>, std::convert::Infallible> {
    if request.uri().path() != upgrade::PATH {
        return api.call(request.map(Body::new)).await;
    }
    Ok(match upgrade::upgrade(&shard, request, peer).await {
        Ok(response) => response.map(Body::new),
        Err(problem) => problem.into_response(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_socket_inherits_what_the_listener_was_told() {
        let listener = TcpListener::from_std(bind(([127, 0, 0, 1], 0).into(), 1).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (socket, _)) = (client.unwrap(), accepted.unwrap());
        assert!(socket.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }
}
