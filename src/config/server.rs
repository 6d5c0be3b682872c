use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[server]`: listeners, threads, heartbeats, drain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where clients and backends connect: WebSocket and HTTP. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// Where operators look: health, metrics. Never expose it. Default `127.0.0.1:9090`.
    pub admin_listen: SocketAddr,
    /// Connection threads; 0 means one per CPU. Default 0.
    pub shards: usize,
    /// Length of the kernel's accept queue. Default 4096.
    pub accept_backlog: i32,
    /// Browser origins that may connect, e.g. `https://app.example.org`; `*` allows all; empty allows only
    /// clients that send no `Origin`. Default `["*"]`: tokens, not cookies, authenticate.
    pub allowed_origins: Vec<String>,
    /// Whether `/` is a page to try the hub with, and whoever opens it gets tokens for the project `demo` and
    /// sees its pushes. For development alone: `serve --dev` turns it on. Default false.
    pub demo: bool,
    /// Addresses of proxies whose `X-Forwarded-For` is believed, as IPs. Default the loopback addresses.
    pub trusted_proxies: Vec<std::net::IpAddr>,
    /// Silence after which the hub pings a client. Default 25 s.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
    /// Silence after a ping until the connection counts as dead. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub pong_timeout: Duration,
    /// Time a socket may stay without a token, a request's head may take, and a connection over HTTP may idle
    /// between two requests. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time a reply over HTTP may stand still because its reader takes nothing of it; then the connection is
    /// closed. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// On SIGTERM, the time over which clients are sent away. Default 8 s.
    #[serde(with = "humantime_serde")]
    pub drain_spread: Duration,
    /// On SIGTERM, the time after which what did not finish is named and left. Default 25 s.
    #[serde(with = "humantime_serde")]
    pub drain_deadline: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8080).into(),
            admin_listen: ([127, 0, 0, 1], 9090).into(),
            shards: 0,
            accept_backlog: 4096,
            allowed_origins: vec!["*".into()],
            demo: false,
            trusted_proxies: vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()],
            ping_interval: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_spread: Duration::from_secs(8),
            drain_deadline: Duration::from_secs(25),
        }
    }
}
