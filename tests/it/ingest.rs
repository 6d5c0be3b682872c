//! Backends' events: three ways in, once in the log, whatever breaks on the way.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use redis::FromRedisValue;
use serde_json::{Value, json};
use sha2::Sha256;
use syncline::config::{Config, Source};

use crate::support::client::{Client, seqs};
use crate::support::hub::{ADMIN_TOKEN, TestHub, token};
use crate::support::proxy::Proxy;
use crate::support::redis::{Cluster, Server};
use crate::support::{eventually, postgres};

const SECRET: &str = "a secret of billing, long enough to sign with";

/// A hub on this Redis, quick to take over.
fn on(url: &str) -> impl Fn(&mut Config) {
    move |config| {
        config.bus.url = url.to_owned();
        config.ingest.claim_after = Duration::from_secs(2);
    }
}

/// An event that sets one field of a task.
fn upsert(id: &str, task: &str, n: u64) -> String {
    json!({ "id": id, "project": "p", "kind": "upsert", "entity": { "type": "task", "id": task },
        "fields": { "n": n }, "source": "billing" })
    .to_string()
}

fn sign(text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

fn signed(config: &mut Config) {
    config.ingest.sources = vec![Source { name: "billing".into(), secret: SECRET.into() }];
}

/// A backend with a plain Redis client.
struct Backend(redis::aio::MultiplexedConnection);

impl Backend {
    async fn new(redis: &Server) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        Self(client.get_multiplexed_async_connection().await.unwrap())
    }

    async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.0).await.unwrap()
    }

    /// Adds an entry and returns its id.
    async fn add(&mut self, event: &str) -> String {
        self.ask(&["XADD", "syncline:ingest", "*", "event", event]).await
    }

    /// Publishes and returns how many heard it.
    async fn publish(&mut self, event: &str) -> u64 {
        self.ask(&["PUBLISH", "syncline:publish", event]).await
    }

    /// Waits until so many instances listen.
    async fn listeners(&mut self, count: u64) {
        let backend = tokio::sync::Mutex::new(self);
        eventually("the instances listen", || async {
            let counted: (String, u64) =
                backend.lock().await.ask(&["PUBSUB", "NUMSUB", "syncline:publish"]).await;
            counted.1 == count
        })
        .await;
    }

    /// Waits until nothing waits in the stream, applied or not.
    async fn drained(&mut self) {
        let backend = tokio::sync::Mutex::new(self);
        eventually("the stream is drained", || async {
            let groups: redis::streams::StreamInfoGroupsReply =
                backend.lock().await.ask(&["XINFO", "GROUPS", "syncline:ingest"]).await;
            groups.groups.first().is_some_and(|group| group.pending == 0 && group.lag == Some(0))
        })
        .await;
    }

    /// The dead letters: event, code and reason.
    async fn dead(&mut self) -> Vec<(String, String, String)> {
        let range: redis::streams::StreamRangeReply =
            self.ask(&["XRANGE", "syncline:ingest:dead", "-", "+"]).await;
        let read = |entry: &redis::streams::StreamId, name| entry.get::<String>(name).unwrap();
        let letters = range.ids.iter();
        letters.map(|e| (read(e, "event"), read(e, "code"), read(e, "reason"))).collect()
    }
}

async fn subscriber(hub: &TestHub, user: &str) -> Client {
    let mut client = Client::connect(&hub.ws(), &token(user, &json!({ "p": "editor" }))).await;
    client.subscribe(json!([{ "room": "project:p" }])).await;
    client
}

fn ingested(hub: &TestHub, way: &str, outcome: &str) -> f64 {
    hub.metric(&format!("syncline_ingest_events_total{{way=\"{way}\",outcome=\"{outcome}\"}}"))
}

struct Http(reqwest::Client);

impl Http {
    fn new() -> Self {
        Self(reqwest::Client::new())
    }

    /// Publishes over HTTP; `header` is the proof.
    async fn publish(&self, hub: &TestHub, header: (&str, &str), body: String) -> (u16, Value) {
        let request = self.0.post(hub.http("/v1/publish")).header(header.0, header.1);
        let response = request.body(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

fn admin() -> (&'static str, &'static str) {
    static BEARER: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| format!("Bearer {ADMIN_TOKEN}"));
    ("authorization", &BEARER)
}

#[tokio::test]
async fn a_stream_entry_becomes_a_change_for_subscribers() {
    let redis = Server::start().await;
    let mut backend = Backend::new(&redis).await;
    backend.add(&upsert("e0", "t0", 0)).await;
    let hub = TestHub::start_with(on(&redis.url())).await;
    backend.drained().await;
    let mut reader = subscriber(&hub, "ana").await;
    for n in 1..=300 {
        backend.add(&upsert(&format!("e{n}"), &format!("t{}", n % 7), n)).await;
    }
    for n in 1..=300 {
        let change = reader.expect("change").await;
        assert_eq!((&change["seq"], &change["fields"]["n"]), (&json!(n + 1), &json!(n)));
        assert_eq!(
            (&change["actor"], &change["op_id"]),
            (&json!("billing"), &json!(format!("e{n}")))
        );
    }
    backend.drained().await;
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0]);
    assert_eq!(ingested(&hub, "stream", "applied"), 301.0);
    hub.stop().await;
    let groups: redis::streams::StreamInfoGroupsReply =
        backend.ask(&["XINFO", "GROUPS", "syncline:ingest"]).await;
    assert_eq!(groups.groups[0].consumers, 0, "a clean stop leaves no consumer");
}

#[tokio::test]
async fn one_id_is_one_change_by_all_three_ways_and_two_hubs() {
    let redis = Server::start().await;
    let database = postgres::fresh_database().await;
    let start = |config: &mut Config| {
        on(&redis.url())(config);
        config.store.url = database.clone();
    };
    let (a, b) = (TestHub::start_with(start).await, TestHub::start_with(start).await);
    let mut backend = Backend::new(&redis).await;
    backend.listeners(2).await;
    let (mut at_a, mut at_b) = (subscriber(&a, "ana").await, subscriber(&b, "bo").await);

    let one = upsert("one", "t1", 1);
    assert_eq!(backend.publish(&one).await, 2, "both hear it");
    for reader in [&mut at_a, &mut at_b] {
        assert_eq!(reader.expect("change").await["seq"], 1);
    }
    backend.add(&one).await;
    backend.add(&one).await;
    backend.drained().await;
    let (status, body) = Http::new().publish(&b, admin(), one.clone()).await;
    let result = &body["results"][0];
    assert_eq!((status, &result["seq"], &result["duplicate"]), (200, &json!(1), &json!(true)));

    // Without an id it counts once as well, however many hear it.
    let nameless = json!({ "project": "p", "kind": "upsert", "entity": { "type": "task", "id": "t2" },
        "fields": { "n": 2 } });
    backend.publish(&nameless.to_string()).await;
    backend.add(&upsert("last", "t3", 3)).await;
    for reader in [&mut at_a, &mut at_b] {
        let first = reader.expect("change").await;
        let second = reader.expect("change").await;
        assert_eq!((&first["seq"], &second["seq"]), (&json!(2), &json!(3)));
    }
    backend.drained().await;
    for reader in [&mut at_a, &mut at_b] {
        assert_eq!(seqs(&reader.settle().await), [] as [u64; 0], "nothing came twice");
    }
    let applied = |way| ingested(&a, way, "applied") + ingested(&b, way, "applied");
    assert_eq!((applied("pubsub"), applied("stream"), applied("http")), (2.0, 1.0, 0.0));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn what_cannot_be_applied_is_a_dead_letter_and_stops_nothing() {
    let redis = Server::start().await;
    let hub = TestHub::start_with(|config| {
        on(&redis.url())(config);
        config.limits.op_bytes = 2000;
    })
    .await;
    let mut reader = subscriber(&hub, "ana").await;
    let mut backend = Backend::new(&redis).await;
    let patch = json!({ "id": "x", "project": "p", "kind": "patch",
        "entity": { "type": "task", "id": "none" }, "fields": {} });
    let large = format!("\"{}\"", "x".repeat(3000));
    backend.add("no event").await;
    backend.add(&upsert("r", "t", 0).replace("upsert", "rename")).await;
    backend.add(&upsert("s", "t", 0).replace("source", "souce")).await;
    backend.add(&patch.to_string()).await;
    backend.add(&large).await;
    let _: String = backend.ask(&["XADD", "syncline:ingest", "*", "other", "field"]).await;
    let binary = b"\xff\xfe";
    let _: String = redis::cmd("XADD")
        .arg(&["syncline:ingest", "*"])
        .arg(binary)
        .arg(binary)
        .query_async(&mut backend.0)
        .await
        .unwrap();
    backend.add(&upsert("good", "t1", 1)).await;
    backend.add(&upsert("good", "t1", 2)).await;
    assert_eq!(reader.expect("change").await["op_id"], "good");
    backend.drained().await;

    let dead = backend.dead().await;
    let codes: Vec<_> = dead.iter().map(|(_, code, _)| code.as_str()).collect();
    let mut expected = vec!["bad_request"; 3];
    expected.extend(["limit_exceeded", "bad_request", "bad_request", "not_found", "op_id_reused"]);
    let sorted = |mut codes: Vec<&'static str>| {
        codes.sort_unstable();
        codes
    };
    let mut codes = codes;
    codes.sort_unstable();
    assert_eq!(codes, sorted(expected));
    let rename = dead.iter().find(|(event, ..)| event.contains("rename")).unwrap();
    assert!(rename.2.contains("unknown variant `rename`"), "{rename:?}");
    assert_eq!(ingested(&hub, "stream", "dead"), 8.0);
    hub.stop().await;
}

#[tokio::test]
async fn entries_of_a_consumer_that_died_are_applied_once() {
    let redis = Server::start().await;
    let mut backend = Backend::new(&redis).await;
    let group = ["XGROUP", "CREATE", "syncline:ingest", "syncline", "0", "MKSTREAM"];
    let () = backend.ask(&group).await;
    for n in 1..=3 {
        backend.add(&upsert(&format!("e{n}"), "t", n)).await;
    }
    // It read two and was never heard of again.
    let _: redis::Value = backend
        .ask(&[
            "XREADGROUP",
            "GROUP",
            "syncline",
            "ghost",
            "COUNT",
            "2",
            "STREAMS",
            "syncline:ingest",
            ">",
        ])
        .await;
    let read: redis::streams::StreamRangeReply =
        backend.ask(&["XRANGE", "syncline:ingest", "-", "+", "COUNT", "2"]).await;
    let ids = read.ids.iter().map(|entry| entry.id.as_str());
    let claim = ["XCLAIM", "syncline:ingest", "syncline", "ghost", "0"].into_iter().chain(ids);
    let idle: Vec<_> = claim.chain(["IDLE", "3600000"]).collect();
    let _: redis::Value = backend.ask(&idle).await;
    let hub = TestHub::start_with(on(&redis.url())).await;
    backend.drained().await;
    let mut reader = subscriber(&hub, "ana").await;
    let page = reader.subscribe(json!([{ "room": "entity:p:task:t", "since": 0 }])).await;
    assert_eq!(page[0]["seq"], 3);
    for n in 1..=3 {
        assert_eq!(reader.expect("change").await["fields"]["n"], n, "in the stream's order");
    }
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0]);
    eventually("the dead consumer is removed", || async {
        let line = "XINFO CONSUMERS syncline:ingest syncline";
        let consumers: redis::streams::StreamInfoConsumersReply = redis.ask(line).await.unwrap();
        consumers.consumers.iter().all(|consumer| consumer.name != "ghost")
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn an_entry_that_was_delivered_too_often_is_a_dead_letter() {
    let redis = Server::start().await;
    let mut backend = Backend::new(&redis).await;
    let group = ["XGROUP", "CREATE", "syncline:ingest", "syncline", "0", "MKSTREAM"];
    let () = backend.ask(&group).await;
    let id = backend.add(&upsert("poison", "t", 1)).await;
    let _: redis::Value = backend
        .ask(&["XREADGROUP", "GROUP", "syncline", "ghost", "STREAMS", "syncline:ingest", ">"])
        .await;
    let _: redis::Value = backend
        .ask(&["XCLAIM", "syncline:ingest", "syncline", "ghost", "0", &id, "RETRYCOUNT", "5"])
        .await;
    let hub = TestHub::start_with(on(&redis.url())).await;
    backend.drained().await;
    assert_eq!(backend.dead().await[0].1, "max_deliveries");
    hub.stop().await;
}

#[tokio::test]
async fn a_hub_that_dies_with_entries_at_hand_is_succeeded_by_another() {
    let redis = Server::start().await;
    let database = postgres::fresh_database().await;
    let port = database.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await;
    let through = database.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    let url = redis.url();

    // The first hub lives in a runtime of its own, which ends as a process does.
    let doomed =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = doomed
        .spawn(TestHub::start_with(move |config| {
            on(&url)(config);
            config.store.url = through;
        }))
        .await
        .unwrap();
    let mut backend = Backend::new(&redis).await;
    backend.add(&upsert("e0", "t", 0)).await;
    backend.drained().await;
    proxy.black_hole();
    for n in 1..=20 {
        backend.add(&upsert(&format!("e{n}"), "t", n)).await;
    }
    eventually("the first hub has entries at hand", || async {
        let pending: redis::streams::StreamPendingReply =
            redis.ask("XPENDING syncline:ingest syncline").await.unwrap();
        pending.count() > 0
    })
    .await;
    doomed.shutdown_background();
    std::mem::forget(first);

    let second = TestHub::start_with(|config| {
        on(&redis.url())(config);
        config.store.url = database.clone();
    })
    .await;
    backend.drained().await;
    let mut reader = subscriber(&second, "ana").await;
    reader.subscribe(json!([{ "room": "entity:p:task:t", "since": 0 }])).await;
    for n in 0..=20 {
        let change = reader.expect("change").await;
        assert_eq!((&change["seq"], &change["fields"]["n"]), (&json!(n + 1), &json!(n)));
    }
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0]);
    second.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_while_the_store_does_not_answer() {
    let redis = Server::start().await;
    let database = postgres::fresh_database().await;
    let port = database.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await;
    let hub = TestHub::start_with(|config| {
        on(&redis.url())(config);
        config.store.url = database.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    })
    .await;
    let mut reader = subscriber(&hub, "ana").await;
    let mut backend = Backend::new(&redis).await;
    proxy.refuse();
    proxy.cut_all();
    for n in 1..=50 {
        backend.add(&upsert(&format!("e{n}"), "t", n)).await;
    }
    // Asked of another project, so that neither waits for the other.
    let other = upsert("h", "t", 0).replace(r#""project":"p""#, r#""project":"q""#);
    let (status, body) = Http::new().publish(&hub, admin(), other.clone()).await;
    assert_eq!((status, &body["code"]), (503, &json!("unavailable")));
    let gave_up = async || ingested(&hub, "stream", "retried") > 0.0;
    eventually("the engine gives up", gave_up).await;
    proxy.forward();
    for n in 1..=50 {
        let change = reader.expect("change").await;
        assert_eq!((&change["seq"], &change["fields"]["n"]), (&json!(n), &json!(n)));
    }
    backend.drained().await;
    assert!(backend.dead().await.is_empty());
    assert_eq!(Http::new().publish(&hub, admin(), other).await.0, 200);
    hub.stop().await;
}

#[tokio::test]
async fn a_redis_that_lost_everything_is_read_again() {
    let mut redis = Server::start().await;
    let hub = TestHub::start_with(on(&redis.url())).await;
    let mut reader = subscriber(&hub, "ana").await;
    let mut backend = Backend::new(&redis).await;
    backend.add(&upsert("e1", "t", 1)).await;
    assert_eq!(reader.expect("change").await["seq"], 1);
    redis.kill().await;
    redis.restart().await;
    let mut backend = Backend::new(&redis).await;
    backend.add(&upsert("e1", "t", 1)).await;
    backend.add(&upsert("e2", "t", 2)).await;
    assert_eq!(reader.expect("change").await["seq"], 2);
    backend.listeners(1).await;
    backend.publish(&upsert("e3", "t", 3)).await;
    assert_eq!(reader.expect("change").await["seq"], 3);
    hub.stop().await;
}

#[tokio::test]
async fn an_older_version_of_a_source_changes_nothing() {
    let redis = Server::start().await;
    let hub = TestHub::start_with(on(&redis.url())).await;
    let mut reader = subscriber(&hub, "ana").await;
    let mut backend = Backend::new(&redis).await;
    let version = |id: &str, version: u64| {
        let mut event: Value = serde_json::from_str(&upsert(id, "t", version)).unwrap();
        event["source_version"] = json!(version);
        event.to_string()
    };
    for (id, v) in [("a", 5), ("b", 4), ("c", 5), ("d", 6)] {
        backend.add(&version(id, v)).await;
    }
    for n in [5, 6] {
        assert_eq!(reader.expect("change").await["fields"]["n"], n);
    }
    backend.drained().await;
    assert_eq!(ingested(&hub, "stream", "stale"), 2.0);
    let (_, body) = Http::new().publish(&hub, admin(), version("e", 6)).await;
    assert_eq!(
        (&body["results"][0]["outcome"], &body["results"][0]["code"]),
        (&json!("noop"), &json!("stale"))
    );
    hub.stop().await;
}

#[tokio::test]
async fn with_sources_only_what_they_signed_is_applied() {
    let redis = Server::start().await;
    let hub = TestHub::start_with(|config| {
        on(&redis.url())(config);
        signed(config);
    })
    .await;
    let mut reader = subscriber(&hub, "ana").await;
    let mut backend = Backend::new(&redis).await;
    backend.listeners(1).await;
    let event = |n: u64| upsert(&format!("e{n}"), &format!("t{n}"), n);
    let bad = "0".repeat(64);

    backend.add(&event(101)).await;
    for (event, sig) in [(event(102), &bad), (event(1), &sign(&event(1)))] {
        let _: String =
            backend.ask(&["XADD", "syncline:ingest", "*", "event", &event, "sig", sig]).await;
    }
    assert_eq!(reader.expect("change").await["op_id"], "e1");
    backend.publish(&event(103)).await;
    backend.publish(&format!("{bad}.{}", event(104))).await;
    backend.publish(&format!("{}.{}", sign(&event(2)), event(2))).await;
    assert_eq!(reader.expect("change").await["op_id"], "e2");

    let http = Http::new();
    let header = "x-syncline-signature";
    assert_eq!(http.publish(&hub, ("accept", "*/*"), event(105)).await.0, 401);
    assert_eq!(http.publish(&hub, (header, &bad), event(106)).await.0, 401);
    assert_eq!(http.publish(&hub, ("authorization", "Bearer no"), event(107)).await.0, 401);
    let body = format!("[{}, {}]", event(3), event(4));
    let (status, body) = http.publish(&hub, (header, &sign(&body)), body).await;
    assert_eq!((status, &body["results"][1]["seq"]), (200, &json!(4)), "{body}");
    let mixed = format!("[{}, {}]", event(5), event(6).replace("billing", "other"));
    assert_eq!(http.publish(&hub, (header, &sign(&mixed)), mixed).await.0, 401);

    backend.drained().await;
    let dead = backend.dead().await;
    assert!(dead.len() == 2 && dead.iter().all(|(_, code, _)| code == "unauthorized"), "{dead:?}");
    assert_eq!(ingested(&hub, "pubsub", "refused"), 2.0);
    let seen = seqs(&reader.settle().await);
    assert_eq!(seen, [3, 4], "nothing unsigned was applied");
    hub.stop().await;
}

#[tokio::test]
async fn http_publishing_needs_proof_and_tells_what_became_of_each() {
    let hub = TestHub::start().await;
    let http = Http::new();
    // No source is configured: a signature proves nothing.
    let stranger = ("x-syncline-signature", "0");
    assert_eq!(http.publish(&hub, stranger, upsert("e", "t", 1)).await.0, 401);
    assert_eq!(http.publish(&hub, admin(), "nothing".into()).await.0, 400);
    let events = json!([
        { "project": "p", "kind": "upsert", "entity": { "type": "task", "id": "t" }, "fields": { "a": 1 } },
        { "id": "m", "project": "p", "kind": "dance" },
        { "id": "d", "project": "q", "kind": "delete", "entity": { "type": "task", "id": "t" } },
        { "id": "u", "project": "p", "kind": "patch", "entity": { "type": "task", "id": "t" }, "fields": { "a": 2 } },
        { "id": "b", "project": "p", "kind": "broadcast", "room": "room:p:x", "event": "ring" },
        { "id": "b", "project": "p", "kind": "broadcast", "room": "room:p:x", "event": "ring" },
    ]);
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "viewer" }))).await;
    ana.subscribe(json!([{ "room": "room:p:x" }])).await;
    let (status, body) = http.publish(&hub, admin(), events.to_string()).await;
    assert_eq!(status, 200, "{body}");
    let results = body["results"].as_array().unwrap();
    let outcomes: Vec<_> = results.iter().map(|r| r["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["applied", "rejected", "noop", "applied", "applied", "noop"]);
    assert_eq!((&results[0]["seq"], &results[3]["seq"]), (&json!(1), &json!(2)));
    assert!(results[0]["id"].is_string(), "the hub tells the id it gave");
    let event = ana.expect("event").await;
    assert_eq!((&event["event"], event.get("from")), (&json!("ring"), None));
    assert!(ana.settle().await.iter().all(|frame| frame["type"] != "event"), "once");
    hub.stop().await;
}

#[tokio::test]
async fn a_broadcast_on_the_channel_is_heard_once_by_everybody() {
    let redis = Server::start().await;
    let (a, b) =
        (TestHub::start_with(on(&redis.url())).await, TestHub::start_with(on(&redis.url())).await);
    let mut backend = Backend::new(&redis).await;
    backend.listeners(2).await;
    let mut clients = Vec::new();
    for hub in [&a, &b] {
        let mut client = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "viewer" }))).await;
        client.subscribe(json!([{ "room": "room:p:x" }])).await;
        eventually("the bus is up", || async { hub.metric("syncline_bus_link_up") == 1.0 }).await;
        clients.push(client);
    }
    for n in 1..=5 {
        let event = json!({ "project": "p", "kind": "broadcast", "room": "room:p:x", "event": "ring", "data": n });
        backend.publish(&event.to_string()).await;
    }
    for client in &mut clients {
        let mut heard = Vec::new();
        for _ in 1..=5 {
            heard.push(client.expect("event").await["data"].as_u64().unwrap());
        }
        heard.sort_unstable();
        assert_eq!(heard, [1, 2, 3, 4, 5]);
        assert!(client.settle().await.iter().all(|frame| frame["type"] != "event"));
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn trimming_keeps_what_is_not_acknowledged() {
    let redis = Server::start().await;
    let mut backend = Backend::new(&redis).await;
    let group = ["XGROUP", "CREATE", "syncline:ingest", "syncline", "0", "MKSTREAM"];
    let () = backend.ask(&group).await;
    let held = backend.add(&upsert("held", "t", 0)).await;
    let _: redis::Value = backend
        .ask(&["XREADGROUP", "GROUP", "syncline", "ghost", "STREAMS", "syncline:ingest", ">"])
        .await;
    let hub = TestHub::start_with(|config| {
        config.bus.url = redis.url();
        config.ingest.keep = 10;
        config.ingest.batch = 5;
        config.ingest.claim_after = Duration::from_secs(60);
    })
    .await;
    backend.drained().await;
    // A second one takes an entry while the hub reads on, and keeps it.
    let held_too = backend.add(&upsert("e0", "t", 0)).await;
    backend.drained().await;
    let _: redis::Value =
        backend.ask(&["XGROUP", "CREATECONSUMER", "syncline:ingest", "syncline", "ghost"]).await;
    let _: redis::Value = backend
        .ask(&["XCLAIM", "syncline:ingest", "syncline", "ghost", "0", &held_too, "FORCE", "JUSTID"])
        .await;
    for n in 1..=100 {
        backend.add(&upsert(&format!("e{n}"), "t", n)).await;
    }
    let length = || async { redis.ask::<u64>("XLEN syncline:ingest").await.unwrap() };
    eventually("all is applied", || async { ingested(&hub, "stream", "applied") > 100.0 }).await;
    let range: redis::streams::StreamRangeReply =
        backend.ask(&["XRANGE", "syncline:ingest", "-", "+", "COUNT", "1"]).await;
    assert_eq!(range.ids[0].id, held_too, "an unacknowledged entry was trimmed");
    assert!(held < held_too);
    let _: u64 = backend.ask(&["XACK", "syncline:ingest", "syncline", &held_too]).await;
    for n in 101..=150 {
        backend.add(&upsert(&format!("e{n}"), "t", n)).await;
    }
    eventually("the applied ones go", || async { length().await <= 20 }).await;
    backend.drained().await;
    assert!(length().await >= 10, "as many as configured stay");
    hub.stop().await;
}

#[tokio::test]
async fn a_notification_reaches_the_socket_and_its_push_the_provider_or_nobody() {
    let redis = Server::start().await;
    let hub = TestHub::start_with(|config| {
        on(&redis.url())(config);
        config.push.grace_high = Duration::from_millis(10);
        config.push.grace_normal = Duration::from_secs(60);
        config.push.poll = Duration::from_millis(50);
    })
    .await;
    let mut bo = subscriber(&hub, "bo").await;
    let mut backend = Backend::new(&redis).await;
    let mut event: Value = serde_json::from_str(&upsert("n1", "t", 1)).unwrap();
    event["notify"] =
        json!({ "users": ["bo", "billing"], "title": "Invoice paid", "lane": "high" });
    backend.add(&event.to_string()).await;
    let notification = bo.expect("notification").await;
    assert_eq!((&notification["title"], &notification["seq"]), (&json!("Invoice paid"), &json!(1)));
    let intents =
        |state: &str| hub.metric(&format!("syncline_push_intents_total{{state=\"{state}\"}}"));
    eventually("the provider has it", || async { intents("done") == 1.0 }).await;

    let mut event: Value = serde_json::from_str(&upsert("n2", "t", 2)).unwrap();
    event["notify"] = json!({ "users": ["bo"], "title": "Invoice sent" });
    backend.add(&event.to_string()).await;
    let seq = bo.expect("notification").await["seq"].clone();
    bo.ask(json!({ "type": "ack", "project": "p", "seq": seq, "active": true })).await;
    eventually("the push is canceled", || async { intents("canceled") == 1.0 }).await;
    assert_eq!(intents("done"), 1.0);
    hub.stop().await;
}

#[tokio::test]
async fn a_cluster_carries_all_of_it() {
    let cluster = Cluster::start().await;
    let hub = TestHub::start_with(on(&cluster.url())).await;
    let mut reader = subscriber(&hub, "ana").await;
    let (owner, _) = cluster.master_of("syncline:ingest").await;
    let (letters, _) = cluster.master_of("syncline:ingest:dead").await;
    let mut backend = Backend::new(&cluster.masters[owner]).await;
    backend.add("no event").await;
    backend.add(&upsert("e1", "t", 1)).await;
    assert_eq!(reader.expect("change").await["seq"], 1);
    let dead = async || cluster.masters[letters].ask::<u64>("XLEN syncline:ingest:dead").await;
    eventually("the dead letter is there", || async { dead().await.unwrap() == 1 }).await;
    eventually("the channel is heard on every master", || async {
        // Repeats of one id are harmless, so this may be said until it is heard.
        for master in &cluster.masters {
            Backend::new(master).await.publish(&upsert("e2", "t", 2)).await;
        }
        ingested(&hub, "pubsub", "applied") == 1.0
    })
    .await;
    assert_eq!(reader.expect("change").await["seq"], 2);
    hub.stop().await;
}
