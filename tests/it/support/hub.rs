//! Hubs in this process, on free ports, each with its own data.

use std::path::Path;

use serde_json::{Value, json};
use syncline::app::{self, Running};
use syncline::auth;
use syncline::clock;
use syncline::config::{Config, Hmac};
use tempfile::TempDir;

pub(crate) const SECRET: &str = "a secret of tests, long enough for HS256";
pub(crate) const ADMIN_TOKEN: &str = "an admin token of tests, long enough";

/// The key test tokens are signed with.
pub(crate) fn key() -> Hmac {
    Hmac { kid: String::new(), algorithm: "HS256".into(), secret: SECRET.into() }
}

/// A configuration for one hub on free ports, with SQLite in `dir` and the local bus.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.server.admin_listen = ([127, 0, 0, 1], 0).into();
    config.server.shards = 2;
    config.server.drain_spread = std::time::Duration::from_millis(100);
    config.auth.hmac = vec![key()];
    config.auth.admin_token = ADMIN_TOKEN.into();
    config.store.url = format!("sqlite:{}", dir.join("hub.db").display());
    config
}

/// A token for a user, good for an hour.
pub(crate) fn token(user: &str, projects: &Value) -> String {
    let now = clock::now_s();
    token_with(&json!({ "sub": user, "projects": projects, "iat": now, "exp": now + 3600 }))
}

/// A token with exactly these claims.
pub(crate) fn token_with(claims: &Value) -> String {
    auth::mint(&key(), claims).unwrap()
}

/// One hub; stopped when it is dropped.
pub(crate) struct TestHub {
    running: Option<Running>,
    /// Where the hub's data is; kept as long as the hub.
    pub(crate) dir: TempDir,
}

impl TestHub {
    /// A hub on SQLite.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A hub on SQLite whose configuration was changed first.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        Self { running: Some(app::start(config).await.unwrap()), dir }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// The hub's parts.
    pub(crate) fn hub(&self) -> &syncline::hub::Hub {
        &self.running().hub
    }

    /// `ws://…/v1/ws`.
    pub(crate) fn ws(&self) -> String {
        format!("ws://{}/v1/ws", self.running().address)
    }

    /// `http://…` and a path.
    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.running().address)
    }

    /// The operators' listener and a path.
    pub(crate) fn operators(&self, path: &str) -> String {
        format!("http://{}{path}", self.running().admin_address)
    }

    /// One value of `/metrics`, by its name and labels as they are exposed.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.hub().metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("there is no metric {name}")).parse().unwrap()
    }

    /// Stops the hub in order; everything must end in time.
    pub(crate) async fn stop(mut self) -> TempDir {
        let unfinished = self.running.take().unwrap().stop().await;
        assert!(unfinished.is_empty(), "did not end: {unfinished:?}");
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}
