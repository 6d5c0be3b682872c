//! Connections that are no WebSocket, or not yet: counted from the accept to their end or their upgrade.
//!
//! They have a limit of their own, so that requests over HTTP take no place from sockets that stay, and
//! the other way round; and each address has a share of its own, because nobody has shown a token yet. One
//! too many is turned away before a byte of it is read. One that stays silent, before its first request or
//! between two, is closed after `server.connect_timeout`.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::hub::Hub;
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

/// Says that there is no room, as far as the peer can still hear it.
pub(super) fn turn_away(socket: TcpStream) {
    if let Ok(mut socket) = socket.into_std() {
        let _gone_already = socket.write_all(TURNED_AWAY);
    }
}
