//! Pushes from the event to the provider: real hubs, and a stand-in for Expo on the other end.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection;
use syncline::config::Config;
use syncline::push::stand_in::{Sent, StandIn};

use crate::support::eventually;
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};

mod access;
mod arming;
mod bad_days;
mod credentials;
mod crowd;
mod dead_tokens;
mod devices;
mod drain;
mod gathered;
mod leases;
mod limits;
mod nights;
mod receipts;
mod reports;
mod schedules;
mod stand_in;
mod words;
mod workers;

/// A stand-in on a free port.
pub(crate) async fn stand_in() -> StandIn {
    StandIn::start(([127, 0, 0, 1], 0).into()).await.unwrap()
}

/// Pushes go to the stand-in, and nothing waits for long.
pub(crate) fn eager(config: &mut Config, stand_in: &StandIn) {
    let push = &mut config.push;
    push.expo.enabled = true;
    push.expo.base_url = stand_in.url();
    push.expo.timeout = Duration::from_secs(2);
    push.expo.breaker = Duration::from_millis(200);
    push.expo.receipt_after = Duration::from_millis(50);
    push.poll = Duration::from_millis(50);
    push.lease = Duration::from_secs(5);
    config.limits.user_ops_per_second = 1_000_000;
}

/// A hub on SQLite whose pushes go to a stand-in.
pub(crate) async fn hub_and_stand_in(change: impl FnOnce(&mut Config)) -> (TestHub, StandIn) {
    let stand_in = stand_in().await;
    let hub = TestHub::start_with(|config| {
        eager(config, &stand_in);
        change(config);
    })
    .await;
    (hub, stand_in)
}

/// An Expo token.
pub(crate) fn expo(name: &str) -> String {
    format!("ExponentPushToken[{name}]")
}

/// Registers a device over HTTP.
pub(crate) async fn register(hub: &TestHub, user: &str, client: &str, more: Value) -> Value {
    let mut body = json!({
        "client": client, "provider": "expo", "platform": "ios", "token": expo(client),
    });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let (status, answer) = post(hub, user, "/v1/push/devices", &body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A request of a user.
pub(crate) async fn post(hub: &TestHub, user: &str, path: &str, body: &Value) -> (u16, Value) {
    let bearer = token(user, &json!({ "p": "editor" }));
    let request = reqwest::Client::new().post(hub.http(path)).bearer_auth(bearer);
    answer(request.body(body.to_string())).await
}

/// A question of a user.
pub(crate) async fn get(hub: &TestHub, user: &str, path: &str) -> (u16, Value) {
    let bearer = token(user, &json!({ "p": "editor" }));
    answer(reqwest::Client::new().get(hub.http(path)).bearer_auth(bearer)).await
}

/// A request of an administrator.
pub(crate) async fn admin(hub: &TestHub, path: &str, body: Option<&Value>) -> (u16, Value) {
    let http = reqwest::Client::new();
    let request = match body {
        Some(body) => http.post(hub.http(path)).body(body.to_string()),
        None => http.get(hub.http(path)),
    };
    answer(request.bearer_auth(ADMIN_TOKEN)).await
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// Publishes events as a backend, each a task with this `notify`; all must be applied.
pub(crate) async fn publish(hub: &TestHub, notifies: &[Value]) -> Vec<Value> {
    let event = |notify: &Value| {
        json!({
            "project": "p", "kind": "upsert", "source": "erp", "notify": notify, "fields": { "n": 1 },
            "entity": { "type": "task", "id": uuid::Uuid::new_v4() },
        })
    };
    let events: Vec<Value> = notifies.iter().map(event).collect();
    let (status, answer) = admin(hub, "/v1/publish", Some(&json!(events))).await;
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    let applied = results.iter().filter(|result| result["outcome"] == "applied").count();
    assert_eq!((status, applied), (200, notifies.len()), "{answer}");
    results
}

/// A plain notification.
pub(crate) fn notify(user: &str, title: &str, lane: &str) -> Value {
    json!({ "users": [user], "title": title, "lane": lane })
}

/// Waits until the stand-in accepted so many messages.
pub(crate) async fn sent(stand_in: &StandIn, count: usize) -> Vec<Sent> {
    eventually(&format!("{count} pushes"), || async { stand_in.sent().len() >= count }).await;
    stand_in.sent()
}

pub(crate) fn titles(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| sent.message["title"].as_str().unwrap().to_owned()).collect()
}

/// Waits until nothing is on its way any more: every intent is decided, every delivery has left.
pub(crate) async fn settled(hub: &TestHub) {
    eventually("nothing waits", || async {
        let queue = hub.hub().store.push_queue().await.unwrap();
        queue.iter().all(|line| line.state == "accepted" || line.state == "scheduled")
    })
    .await;
}

/// One number from a hub's database.
pub(crate) async fn number(hub: &TestHub, sql: &'static str) -> i64 {
    let url = &hub.hub().config.store.url;
    if url.starts_with("sqlite:") {
        let mut db = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut db).await.unwrap()
    } else {
        let mut db = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut db).await.unwrap()
    }
}

/// Changes a hub's database, as time would.
pub(crate) async fn change(hub: &TestHub, sql: &'static str) -> u64 {
    let url = &hub.hub().config.store.url;
    if url.starts_with("sqlite:") {
        let mut db = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut db).await.unwrap().rows_affected()
    } else {
        let mut db = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut db).await.unwrap().rows_affected()
    }
}
