//! Connections that are no WebSocket, or not yet: counted from the accept to their end or their upgrade.
//!
//! They have a limit of their own, so that requests over HTTP take no place from sockets that stay, and
//! the other way round; and each address has a share of its own, because nobody has shown a token yet. One
//! too many is turned away, whatever it asks. One that stays silent, before its first request or between two,
//! is closed after `server.connect_timeout`.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::hub::Hub;
use crate::session::connection::read_some;
use crate::session::shard::Shard;
use crate::telemetry::RateLimit;

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// One such connection; counted out when dropped.
pub(super) struct Guest {
    hub: Arc<Hub>,
    pub(super) ip: IpAddr,
}

impl Guest {
    /// Counts a connection in, if there is room for it.
    pub(super) fn admit(hub: &Arc<Hub>, ip: IpAddr) -> Option<Self> {
        hub.guests.add(ip);
        hub.metrics.http_connections.inc();
        let guest = Self { hub: hub.clone(), ip };
        let limits = &hub.config.limits;
        // Behind a proxy everyone has its address; it counts its own clients.
        let known = hub.config.server.trusted_proxies.contains(&ip);
        let exceeded = if hub.guests.all() > limits.http_connections {
            RateLimit::HttpConnections
        } else if !known && hub.guests.from(ip) > limits.http_connections_per_ip {
            RateLimit::HttpConnectionsPerIp
        } else {
            return Some(guest);
        };
        hub.metrics.rate_limited.of(exceeded).inc();
        None
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hub.guests.remove(self.ip);
        self.hub.metrics.http_connections.dec();
    }
}

/// How many of a shard may be about to ask while there is no room.
const ASKING: usize = 256;
/// How long they have for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says that there is no room.
pub(super) struct Bouncer {
    shard: Rc<Shard>,
    asking: Arc<Semaphore>,
}

impl Bouncer {
    pub(super) fn new(shard: Rc<Shard>) -> Self {
        Self { shard, asking: Arc::new(Semaphore::new(ASKING)) }
    }

    /// Answers once the peer has asked, as far as there is room to wait for that: nginx takes an answer that
    /// comes before it sent its request for the answer of the next instance as well, and leaves both out. And
    /// what is not read when a socket is closed can cost the peer the answer.
    pub(super) fn turn_away(&self, socket: TcpStream) {
        let Ok(asking) = self.asking.clone().try_acquire_owned() else { return refuse(&socket) };
        let shard = self.shard.clone();
        spawn_local(async move {
            let _late = timeout(PATIENCE, hear(&shard, &socket)).await;
            refuse(&socket);
            drop(asking);
        });
    }
}

/// Reads something, whatever it is, or the end.
async fn hear(shard: &Shard, socket: &TcpStream) {
    while socket.readable().await.is_ok() {
        let read = read_some(socket, &mut shard.read_buffer.borrow_mut());
        if !matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            return;
        }
    }
}

/// As far as the peer can still hear it.
fn refuse(socket: &TcpStream) {
    let _gone_already = SockRef::from(socket).send(TURNED_AWAY);
}
