//! Entity types that are resolved in every way there is, and hubs that know them on each engine.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use syncline::config::{Config, Entity, Field};
use syncline::protocol::conflict::{Merge, Strategy};

use super::client::Client;
use super::hub::{TestHub, token};
use super::{postgres, redis};

/// The types every test of writes knows: `task` merges (a counter, a set, a reference, and `approval`,
/// which its user decides), `note` goes by the clock, `form` always asks, `draft` is the client's and
/// `stock` the server's.
pub(crate) fn varied(config: &mut Config) {
    let merged = |merge| Field { merge: Some(merge), ..Field::default() };
    let manual = Field { strategy: Some(Strategy::Manual), ..Field::default() };
    let parent = Field { references: Some("task".into()), ..Field::default() };
    let fields = [
        ("hours", merged(Merge::Counter)),
        ("tags", merged(Merge::Set)),
        ("approval", manual),
        ("parent", parent),
    ];
    let fields: BTreeMap<_, _> = fields.map(|(name, field)| (name.to_owned(), field)).into();
    let types = &mut config.entities.0;
    types.insert("task".into(), Entity { fields, ..Entity::default() });
    for (name, strategy) in [
        ("note", Strategy::LastWriteWins),
        ("form", Strategy::Manual),
        ("draft", Strategy::ClientWins),
        ("stock", Strategy::ServerWins),
    ] {
        types.insert(name.into(), Entity { strategy, ..Entity::default() });
    }
}

/// One hub on SQLite, or two on one PostgreSQL that hear each other through Redis.
pub(crate) struct Hubs {
    hubs: Vec<TestHub>,
    _redis: Option<redis::Server>,
}

impl Hubs {
    pub(crate) async fn sqlite(change: impl Fn(&mut Config)) -> Self {
        let hub = TestHub::start_with(|config| {
            varied(config);
            change(config);
        });
        Self { hubs: vec![hub.await], _redis: None }
    }

    pub(crate) async fn postgres(change: impl Fn(&mut Config)) -> Self {
        let (database, redis) = (postgres::fresh_database().await, redis::Server::start().await);
        let mut hubs = Vec::new();
        for _ in 0..2 {
            let hub = TestHub::start_with(|config| {
                config.store.url.clone_from(&database);
                config.store.connections = 3;
                config.bus.url = redis.url();
                varied(config);
                change(config);
            });
            hubs.push(hub.await);
        }
        Self { hubs, _redis: Some(redis) }
    }

    /// One of them; different numbers are different hubs where there are several.
    pub(crate) fn hub(&self, number: usize) -> &TestHub {
        &self.hubs[number % self.hubs.len()]
    }

    /// A user's device on a socket of one of the hubs.
    pub(crate) async fn device(&self, number: usize, user: &str, client: &str) -> Client {
        let token = token(user, &json!({ "p": "editor", "q": "editor" }));
        let mut device = Client::connect(&self.hub(number).ws(), &token).await;
        let hello = json!({ "type": "connect", "client": client });
        assert_eq!(device.ask(hello).await["type"], "connected");
        device
    }

    /// Asks one of the hubs over HTTP, as a user; the status and the answer.
    pub(crate) async fn get(&self, number: usize, user: &str, path: &str) -> (u16, Value) {
        self.ask(number, user, path, None).await
    }

    /// Posts to one of the hubs.
    pub(crate) async fn post(
        &self,
        number: usize,
        user: &str,
        path: &str,
        body: String,
    ) -> (u16, Value) {
        self.ask(number, user, path, Some(body)).await
    }

    async fn ask(
        &self,
        number: usize,
        user: &str,
        path: &str,
        body: Option<String>,
    ) -> (u16, Value) {
        let (client, url) = (reqwest::Client::new(), self.hub(number).http(path));
        let request = match body {
            Some(body) => client.post(url).body(body),
            None => client.get(url),
        };
        let token = token(user, &json!({ "p": "editor", "q": "editor" }));
        let answer = request.bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Writes over HTTP, as one of the user's devices.
    pub(crate) async fn write(
        &self,
        number: usize,
        user: &str,
        client: &str,
        ops: &[Value],
    ) -> Vec<Value> {
        let body = json!({ "client": client, "ops": ops }).to_string();
        let (status, answer) = self.post(number, user, "/v1/projects/p/ops", body).await;
        assert_eq!(status, 200, "{answer}");
        answer["verdicts"].as_array().unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        for hub in self.hubs {
            hub.stop().await;
        }
    }
}

/// An operation; `more` has its other members.
pub(crate) fn op(op_id: &str, kind: &str, of: (&str, &str), more: &Value) -> Value {
    let mut op = json!({ "op_id": op_id, "kind": kind, "type": of.0, "id": of.1 });
    op.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    op
}
