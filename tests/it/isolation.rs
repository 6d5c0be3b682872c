//! No byte of a project reaches a connection or a request whose token does not grant it.
//!
//! Everything the hub holds of the project contains [`CANARY`]; whatever an attacker receives must not.
//! `table` is every frame and every endpoint, asked by everyone who may not.

mod table;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use syncline::auth::{MAX_PROJECTS, mint};
use syncline::clock;
use syncline::config::{Config, Entity, Hmac, Role};
use syncline::protocol::conflict::Strategy;

use crate::support::client::{Client, create};
use crate::support::eventually;
use crate::support::hub::{ADMIN_TOKEN, SECRET, TestHub, key, token, token_with};
use crate::support::raw::{Heard, Raw, text};

const CANARY: &str = "canary-7f3a";

/// A project full of canaries, and someone in it who goes on talking.
struct Site {
    hub: TestHub,
    insider: Client,
    said: u64,
}

impl Site {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let hub = TestHub::start_with(|config| {
            config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
            config.presence.batch = std::time::Duration::from_millis(5);
            change(config);
        })
        .await;
        let mut insider =
            Client::connect(&hub.ws(), &token("insider", &json!({ "p": "editor" }))).await;
        let rooms = json!([{ "room": "project:p" }, { "room": "room:p:screen", "presence": true }]);
        insider.subscribe(rooms).await;
        let payroll = json!({ "op_id": "pay", "kind": "create", "type": "payroll", "id": "1",
            "fields": { "pay": CANARY } });
        insider.write("p", json!([create("t1", "t1", &json!({ "title": CANARY })), payroll])).await;
        let mut site = Self { hub, insider, said: 0 };
        site.talk().await;
        site
    }

    /// Changes, a broadcast, a presence state and a notification to everyone who attacks.
    async fn talk(&mut self) {
        self.said += 1;
        let mut op =
            create(&format!("s{}", self.said), &format!("s{}", self.said), &json!({ "x": CANARY }));
        op["notify"] = json!({ "users": ["mallory"], "title": CANARY });
        self.insider.write("p", json!([op])).await;
        for frame in [
            json!({ "type": "broadcast", "room": "room:p:screen", "event": CANARY, "data": CANARY }),
            json!({ "type": "presence", "room": "room:p:screen", "state": [CANARY, self.said] }),
        ] {
            assert_eq!(self.insider.ask(frame).await["type"], "ok");
        }
        self.insider.expect("presence").await;
        self.insider.settle().await;
    }
}

fn clean(received: &impl ToString) {
    let received = received.to_string();
    assert!(!received.contains(CANARY), "a byte leaked: {received}");
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = clock::now_s();
    let mut claims = json!({ "sub": "mallory", "projects": { "p": "editor" }, "iat": now,
        "exp": now + 600, "jti": "good" });
    change(&mut claims);
    claims
}

fn unsigned(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

/// A token whose signature is good by our key, whatever its header claims.
fn signed(header: &Value, claims: &Value) -> String {
    let token = unsigned(header, claims, "");
    let mut mac = hmac::Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(token.trim_end_matches('.').as_bytes());
    token + &URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
}

async fn revoke_stolen(hub: &TestHub) {
    let body = json!({ "kind": "token", "jti": "stolen" }).to_string();
    let request = reqwest::Client::new().post(hub.http("/v1/admin/tokens/revoke"));
    let answer = request.bearer_auth(ADMIN_TOKEN).body(body).send().await.unwrap();
    assert_eq!(answer.status(), 204);
}

/// Tokens nobody may get in with: what they are, the token, the error code and the close code.
fn bad_tokens() -> Vec<(&'static str, String, &'static str, u16)> {
    let good = token_with(&claims(|_| {}));
    let signature = good.rsplit('.').next().unwrap();
    let kid = |kid: &str| mint(&Hmac { kid: kid.into(), ..key() }, &claims(|_| {})).unwrap();
    let forged = Hmac { secret: "another secret of at least 32 bytes".into(), ..key() };
    let hs256 = json!({ "alg": "HS256", "typ": "JWT" });
    let past = clock::now_s() - 600;
    vec![
        ("malformed", "a.b".into(), "unauthorized", 4401),
        ("no JWT at all", "x".repeat(300), "unauthorized", 4401),
        ("forged", mint(&forged, &claims(|_| {})).unwrap(), "unauthorized", 4401),
        (
            "other claims under a good signature",
            { unsigned(&hs256, &claims(|c| c["sub"] = "insider".into()), signature) },
            "unauthorized",
            4401,
        ),
        ("none", unsigned(&json!({ "alg": "none" }), &claims(|_| {}), ""), "unauthorized", 4401),
        (
            "None",
            unsigned(&json!({ "alg": "NONE" }), &claims(|_| {}), signature),
            "unauthorized",
            4401,
        ),
        (
            "another algorithm",
            mint(
                &Hmac {
                    algorithm: "HS384".into(),
                    secret: format!("{:>64}", key().secret),
                    ..key()
                },
                &claims(|_| {}),
            )
            .unwrap(),
            "unauthorized",
            4401,
        ),
        ("RS256", signed(&json!({ "alg": "RS256" }), &claims(|_| {})), "unauthorized", 4401),
        ("ES256", signed(&json!({ "alg": "ES256" }), &claims(|_| {})), "unauthorized", 4401),
        ("hs256", signed(&json!({ "alg": "hs256" }), &claims(|_| {})), "unauthorized", 4401),
        ("no algorithm", signed(&json!({ "typ": "JWT" }), &claims(|_| {})), "unauthorized", 4401),
        (
            "kid as a list",
            signed(&json!({ "alg": "HS256", "kid": [""] }), &claims(|_| {})),
            "unauthorized",
            4401,
        ),
        (
            "a critical extension well signed",
            signed(&json!({ "alg": "HS256", "crit": ["exp"] }), &claims(|_| {})),
            "unauthorized",
            4401,
        ),
        ("unknown kid", kid("who"), "unauthorized", 4401),
        ("kid as a path", kid("../../../../dev/null"), "unauthorized", 4401),
        ("kid as SQL", kid("' UNION SELECT 'x"), "unauthorized", 4401),
        (
            "embedded key",
            unsigned(
                &json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": "eA" } }),
                &claims(|_| {}),
                "eA",
            ),
            "unauthorized",
            4401,
        ),
        (
            "critical extension",
            unsigned(&json!({ "alg": "HS256", "crit": ["b64"] }), &claims(|_| {}), signature),
            "unauthorized",
            4401,
        ),
        (
            "oversized claim",
            token_with(&claims(|c| c["jti"] = "j".repeat(300).into())),
            "unauthorized",
            4401,
        ),
        (
            "oversized token",
            token_with(&claims(|c| c["more"] = "m".repeat(9000).into())),
            "unauthorized",
            4401,
        ),
        (
            "an oversized user",
            token_with(&claims(|c| c["sub"] = "m".repeat(200).into())),
            "unauthorized",
            4401,
        ),
        (
            "too many projects",
            token_with(&claims(|c| {
                let many = (0..=MAX_PROJECTS).map(|n| (format!("p{n}"), json!("editor")));
                c["projects"] = Value::Object(many.collect());
            })),
            "unauthorized",
            4401,
        ),
        (
            "an expiry as text",
            token_with(&claims(|c| c["exp"] = "9999999999".into())),
            "unauthorized",
            4401,
        ),
        ("no expiry", token_with(&claims(|c| c["exp"] = Value::Null)), "unauthorized", 4401),
        (
            "not valid yet",
            token_with(&claims(|c| c["nbf"] = (clock::now_s() + 600).into())),
            "unauthorized",
            4401,
        ),
        ("no user", token_with(&claims(|c| c["sub"] = "".into())), "unauthorized", 4401),
        ("expired", token_with(&claims(|c| c["exp"] = past.into())), "token_expired", 4100),
        ("revoked", token_with(&claims(|c| c["jti"] = "stolen".into())), "token_revoked", 4101),
    ]
}

#[tokio::test]
async fn a_role_without_the_right_changes_and_sees_nothing_more() {
    let mut site = Site::start().await;
    let mut viewer = Client::connect(&site.hub.ws(), &token("vi", &json!({ "p": "viewer" }))).await;
    for (op, code) in [
        (create("v1", "t9", &json!({})), "forbidden"),
        (
            json!({ "op_id": "v2", "kind": "delete", "type": "task", "id": "t1", "base": 1 }),
            "forbidden",
        ),
        (
            json!({ "op_id": "v3", "kind": "update", "type": "payroll", "id": "1", "base": 0, "fields": {} }),
            "forbidden",
        ),
        (
            json!({ "op_id": "pay", "kind": "create", "type": "payroll", "id": "1", "fields": {} }),
            "forbidden",
        ),
    ] {
        let verdict = viewer.write("p", json!([op.clone()])).await.remove(0);
        assert_eq!(
            (&verdict["outcome"], &verdict["code"]),
            (&json!("rejected"), &json!(code)),
            "{op}"
        );
        clean(&verdict);
    }
    let broadcast = json!({ "type": "broadcast", "room": "room:p:screen", "event": "e" });
    assert_eq!(viewer.ask(broadcast).await["code"], "forbidden");
    let rooms = viewer
        .subscribe(json!([
            { "room": "entity:p:payroll:1", "since": 0, "presence": true },
            { "room": "entity:p:payroll:1" },
        ]))
        .await;
    assert!(rooms.iter().all(|room| room["error"]["code"] == "forbidden"), "{rooms:?}");
    clean(&Value::from(rooms));

    // What it may read it gets, and of the rest only that there is something.
    viewer.subscribe(json!([{ "room": "project:p", "since": 0 }])).await;
    assert_eq!(viewer.expect("change").await["entity"]["type"], "task");
    assert_eq!(viewer.expect("advance").await["seq"], 2);
    let listed = site.hub.http("/v1/projects/p/changes?since=0");
    let viewer_token = token("vi", &json!({ "p": "viewer" }));
    let delta: Value = reqwest::Client::new()
        .get(listed)
        .bearer_auth(viewer_token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let types: Vec<_> = delta["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["entity"]["type"].clone())
        .collect();
    assert!(types.iter().all(|kind| kind == "task") && !types.is_empty(), "{delta}");
    site.talk().await;
    site.hub.stop().await;
}

/// What everyone in the project may see; it has to come with whatever has to be clean of the rest.
const SEEN: &str = "seen-51c9";

/// A role that reads tasks without their salary, and writes them.
fn worker(config: &mut Config) {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let role = Role {
        read: list(&["task"]),
        write: list(&["task", "payroll"]),
        delete: list(&["task", "payroll"]),
        broadcast: true,
        hidden: [("task".to_owned(), list(&["salary"]))].into(),
    };
    config.roles.0.insert("worker".into(), role);
}

/// A payroll and salaries of tasks, with notifications about both to the worker.
fn secrets(round: u64) -> Value {
    let id = |name: &str| format!("{name}{round}");
    let notify = |mut op: Value, title: &str| {
        op["notify"] = json!({ "users": ["worker"], "title": title });
        op
    };
    let both = json!({ "title": SEEN, "salary": CANARY });
    let payroll = json!({ "op_id": id("p"), "kind": "create", "type": "payroll", "id": id("p"),
        "fields": { "pay": CANARY } });
    let salary = json!({ "op_id": id("u"), "kind": "update", "type": "task", "id": id("a"),
        "base": 0, "fields": { "salary": [CANARY, 2] } });
    json!([
        notify(create(&id("a"), &id("a"), &both), SEEN),
        create(&id("b"), &id("b"), &json!({ "salary": CANARY })),
        notify(payroll, CANARY),
        salary,
        create(&id("c"), &id("c"), &both),
    ])
}

/// Everything a worker is sent about the secrets of two rounds, by every way there is.
async fn sent_to_worker(hub: &TestHub, insider: &mut Client) -> Vec<(String, String)> {
    let worker = token("worker", &json!({ "p": "worker" }));
    let mut sent = Vec::new();
    let mut keep = |way: &str, text: String| sent.push((way.to_owned(), text));
    let mut live = Client::connect(&hub.ws(), &worker).await;
    live.subscribe(json!([{ "room": "project:p" }])).await;
    let mut entity = Client::connect(&hub.ws(), &worker).await;
    entity.subscribe(json!([{ "room": "entity:p:task:a2" }])).await;
    for round in [1, 2] {
        let verdicts = insider.write("p", secrets(round)).await;
        assert!(verdicts.iter().all(|v| v["outcome"] == "applied"), "{verdicts:?}");
    }
    let end = |frame: &Value| frame["seq"] == 10;
    let last = live.find("the last change", end).await;
    let notifications = [live.expect("notification").await, live.expect("notification").await];
    keep("live", json!([last, live.settle().await]).to_string());
    keep("notifications", json!(notifications).to_string());
    let change = entity.expect("change").await;
    keep("entity room", json!([change, entity.settle().await]).to_string());

    let mut late = Client::connect(&hub.ws(), &worker).await;
    late.subscribe(json!([{ "room": "project:p", "since": 0 }])).await;
    let last = late.find("the last change", end).await;
    keep("resume", json!([last, late.settle().await]).to_string());
    late.subscribe(json!([{ "room": "entity:p:task:a1", "since": 0 }])).await;
    let answer = late.ask(json!({ "type": "subscribe",
        "rooms": [{ "room": "entity:p:payroll:p1", "since": 0, "presence": true }] }));
    keep("a room refused", format!("{SEEN}{}", answer.await));

    let op = |kind: &str, of: &str, id: &str, fields: Value| {
        json!({ "op_id": format!("{kind}{of}{id}"), "kind": kind, "type": of, "id": id, "base": 1,
            "fields": fields })
    };
    let ops = json!([
        op("update", "task", "a2", json!({ "title": "mine" })),
        op("create", "task", "a1", json!({})),
        op("update", "task", "a1", json!({ "title": "mine", "salary": 1 })),
        op("create", "task", "new", json!({ "salary": 1 })),
        op("delete", "task", "a2", json!({})),
        op("update", "payroll", "p1", json!({ "pay": 1 })),
        op("create", "payroll", "p1", json!({ "pay": 1 })),
        op("delete", "payroll", "p1", json!({})),
        create("p1", "p1", &json!({})),
        create("a1", "a1", &json!({ "title": SEEN })),
    ]);
    for _ in ["first", "again"] {
        let verdicts = late.write("p", ops.clone()).await;
        assert_eq!(verdicts.len(), 10);
        keep("verdicts", Value::from(verdicts).to_string());
    }
    let http = reqwest::Client::new();
    for (method, path, body) in [
        (Method::GET, "changes?since=0", String::new()),
        (Method::GET, "changes?since=3&limit=1", String::new()),
        (Method::GET, "entities/task/a1", String::new()),
        (Method::GET, "entities/task/b1", String::new()),
        (Method::GET, "entities/payroll/p1", String::new()),
        (Method::GET, "entities/task/a1/explain", String::new()),
        (Method::GET, "entities/task/a1/explain?field=salary", String::new()),
        (Method::GET, "entities/payroll/p1/explain", String::new()),
        (Method::GET, "conflicts", String::new()),
        (Method::POST, "ops", json!({ "ops": ops }).to_string()),
    ] {
        let request = http.request(method, hub.http(&format!("/v1/projects/p/{path}"))).body(body);
        let answer = request.bearer_auth(&worker).send().await.unwrap();
        let shows_nothing = path.contains("b1") || path.contains("p1") || path.contains("salary");
        let text = answer.text().await.unwrap();
        keep(path, if shows_nothing { format!("{SEEN}{text}") } else { text });
    }
    for path in ["notifications", "sync/failed?project=p", "sync/log?project=p", "sync/status"] {
        let request = http.get(hub.http(&format!("/v1/{path}"))).bearer_auth(&worker);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        keep(path, format!("{SEEN}{}", answer.text().await.unwrap()));
    }
    sent
}

#[tokio::test]
async fn a_hidden_type_and_a_hidden_field_reach_a_role_by_no_way() {
    // From the recent changes in memory, and from the store.
    for recent in [1 << 20, 1] {
        let hub = TestHub::start_with(|config| {
            worker(config);
            config.limits.recent_bytes = recent;
        })
        .await;
        let mut insider =
            Client::connect(&hub.ws(), &token("insider", &json!({ "p": "editor" }))).await;
        for (way, text) in sent_to_worker(&hub, &mut insider).await {
            assert!(text.contains(SEEN), "{way} brought nothing: {text}");
            assert!(!text.contains(CANARY), "{way} leaked: {text}");
        }
        // The same ways show an editor everything: the secrets were there to be seen.
        let request = reqwest::Client::new().get(hub.http("/v1/projects/p/changes"));
        let request = request.bearer_auth(token("insider", &json!({ "p": "editor" })));
        let all = request.send().await.unwrap().text().await.unwrap();
        assert!(all.matches(CANARY).count() >= 8, "{all}");
        hub.stop().await;
    }
}

#[tokio::test]
async fn what_a_wider_role_was_told_is_not_told_again_to_a_narrower_one() {
    let hub = TestHub::start_with(|config| {
        worker(config);
        for kind in ["task", "payroll"] {
            let manual = Entity { strategy: Strategy::Manual, ..Entity::default() };
            config.entities.0.insert(kind.into(), manual);
        }
    })
    .await;
    let editor = |user: &str| token(user, &json!({ "p": "editor" }));
    let mut insider = Client::connect(&hub.ws(), &editor("insider")).await;
    insider.write("p", secrets(1)).await;
    let mut wide = Client::connect(&hub.ws(), &editor("ana")).await;
    let op = |id: &str, kind: &str, of: &str, entity: &str, fields: Value| json!({ "op_id": id, "kind": kind, "type": of, "id": entity, "base": 0, "fields": fields });
    // Each is parked; each verdict shows the entity, the last conflict its salary.
    let ops = json!([
        op("1", "update", "payroll", "p1", json!({ "pay": 1 })),
        op("2", "update", "task", "c1", json!({ "title": 1 })),
        op("3", "delete", "task", "a1", json!({})),
    ]);
    for verdict in wide.write("p", ops.clone()).await {
        assert_eq!(verdict["outcome"], "conflict", "{verdict}");
        assert!(verdict["current"].to_string().contains(CANARY), "{verdict}");
    }
    let narrow = token("ana", &json!({ "p": "worker" }));
    let mut ana = Client::connect(&hub.ws(), &narrow).await;
    let verdicts = Value::from(ana.write("p", ops.clone()).await);
    assert!(verdicts.to_string().contains(SEEN), "{verdicts}");
    clean(&verdicts);
    let list = async |token: &str| {
        let request = reqwest::Client::new().get(hub.http("/v1/projects/p/conflicts"));
        request.bearer_auth(token).send().await.unwrap().text().await.unwrap()
    };
    assert!(list(&editor("ana")).await.contains(CANARY));
    let listed = list(&narrow).await;
    assert!(listed.contains(SEEN), "{listed}");
    clean(&listed);

    // The same user on both: what opens a conflict is told to each by its own role.
    let again = json!([
        op("4", "delete", "task", "c1", json!({})),
        op("5", "update", "payroll", "p1", json!({ "pay": 2 })),
    ]);
    wide.settle().await;
    wide.write("p", again).await;
    let seen = [wide.expect("conflict").await, wide.expect("conflict").await];
    assert!(seen.iter().all(|frame| frame.to_string().contains(CANARY)), "{seen:?}");
    let told = ana.find("the conflict", |frame| frame["conflict"]["op_id"] == "4").await;
    assert!(told.to_string().contains(SEEN), "{told}");
    clean(&told);
    clean(&Value::from(ana.settle().await));
    hub.stop().await;
}

#[tokio::test]
async fn a_connection_does_not_inherit_the_rooms_of_one_that_broke() {
    let hub = TestHub::start_with(|config| {
        config.server.shards = 1;
        config.limits.broadcasts_per_second = 1_000_000;
        config.limits.user_broadcasts_per_second = 1_000_000;
    })
    .await;
    let editor = token("insider", &json!({ "p": "editor" }));
    let (mut talker, url) = (Client::connect(&hub.ws(), &editor).await, hub.ws());
    let talking = tokio::spawn(async move {
        loop {
            let broadcast =
                json!({ "type": "broadcast", "room": "room:p:screen", "event": CANARY });
            assert_eq!(talker.ask(broadcast).await["type"], "ok");
        }
    });
    for _ in 0..100 {
        let mut victim = Raw::open(&url).await;
        victim.upgrade(&editor).await;
        victim
            .send(text(&json!({ "type": "subscribe", "rooms": [{ "room": "room:p:screen" }] })))
            .await;
        victim.expect("event").await;
        victim.reset();
    }
    eventually("the broken connections left their rooms", || async {
        hub.metric("syncline_subscriptions") == 0.0
    })
    .await;
    let mut heir = Raw::open(&url).await;
    heir.upgrade(&token("heir", &json!({ "other": "editor" }))).await;
    heir.expect("connected").await;
    heir.send(text(&json!({ "type": "ping", "id": 1 }))).await;
    let Some(Heard::Text(pong)) = heir.hear().await else { panic!("no answer") };
    assert_eq!(pong["type"], "pong", "{pong}");
    talking.abort();
    hub.stop().await;
}
