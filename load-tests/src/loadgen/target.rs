//! Whom to load, with which tokens.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use load_tests::wire;
use serde_json::json;

/// The project of every scenario.
pub(crate) const PROJECT: &str = "bench";
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// What every scenario is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The server, `ws://host:port[/path]`.
    #[arg(long)]
    pub(crate) url: Url,
    /// A name for the server in the output.
    #[arg(long, default_value = "server")]
    pub(crate) target: String,
    /// Process whose CPU and memory are measured; repeat it to add several up.
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// One token for every connection.
    #[arg(long, conflicts_with = "secret")]
    token: Option<String>,
    /// HS256 secret to mint one token per connection with, user `u0`, `u1`, …
    #[arg(long)]
    secret: Option<String>,
    /// Seconds without any progress after which a scenario gives up waiting.
    #[arg(long, default_value_t = 15)]
    patience: u64,
}

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct Url {
    pub(crate) address: SocketAddr,
    path: String,
}

impl FromStr for Url {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let rest = text.strip_prefix("ws://").context("the URL must begin with ws://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let address = host.to_socket_addrs()?.next().context("the host has no address")?;
        let path = if path.len() < 2 { "/v1/ws" } else { path };
        Ok(Self { address, path: path.to_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.address, self.path)
    }
}

impl Common {
    /// How long to wait without progress.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    /// The opening bytes of the connection of user `user`: the upgrade request and, right behind it,
    /// a `subscribe` to `rooms`.
    pub(crate) fn opening(&self, url: &Url, user: usize, rooms: &str) -> Result<Vec<u8>> {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            url.path, url.address
        );
        if let Some(token) = self.token(user)? {
            request.push_str("Authorization: Bearer ");
            request.push_str(&token);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let subscribe = format!(r#"{{"type":"subscribe","id":1,"rooms":[{rooms}]}}"#);
        let mut opening = request.into_bytes();
        opening.extend_from_slice(&wire::masked(wire::TEXT, subscribe.as_bytes()));
        Ok(opening)
    }

    fn token(&self, user: usize) -> Result<Option<String>> {
        let Some(secret) = &self.secret else { return Ok(self.token.clone()) };
        if secret.len() < 32 {
            bail!("an HS256 secret has at least 32 bytes");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let claims = json!({
            "sub": format!("u{user}"),
            "projects": { PROJECT: "editor" },
            "iat": now.as_secs(),
            "exp": (now + TOKEN_LIFE).as_secs(),
        });
        let key = EncodingKey::from_secret(secret.as_bytes());
        Ok(Some(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?))
    }
}

/// One entry of a `subscribe` without a cursor.
pub(crate) fn room(name: &str) -> String {
    format!(r#"{{"room":"{name}"}}"#)
}

/// The name of broadcast room `k`.
pub(crate) fn bench_room(k: usize) -> String {
    format!("room:{PROJECT}:{k}")
}
