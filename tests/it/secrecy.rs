//! What people write and what proves who they are is in no log, at `debug` neither, and in no error: the real
//! program is led through everything that is told, refused and misunderstood, with words that are looked for
//! afterwards.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client as Http, RequestBuilder};
use serde_json::{Value, json};
use sha2::Sha256;
use syncline::clock;
use syncline::config::{Config, Source};
use syncline::push::stand_in::{Behaviour, StandIn};

use crate::push::{eager, stand_in};
use crate::support::client::{Client, create, update};
use crate::support::hub::{self, ADMIN_TOKEN, SECRET, token, token_with};
use crate::support::process::Process;
use crate::support::raw::{Raw, handshake};
use crate::support::{eventually, postgres, redis};

/// In everything that people write, whatever it is.
const WORD: &str = "quokka";
/// In every password, secret and bad token.
const KEYHOLE: &str = "numbat";
const OPS: &str = "/v1/projects/p/ops";

/// The program, and what was said to it.
struct Scene {
    hub: Process,
    redis: redis::Server,
    stand_in: StandIn,
    /// What must not be seen: [`WORD`], [`KEYHOLE`], and what is made at random.
    hidden: Vec<String>,
    /// The bodies of all refusals.
    problems: Vec<String>,
}

impl Scene {
    async fn new() -> Self {
        let (redis, stand_in) = (redis::Server::start().await, stand_in().await);
        let user = format!("ACL SETUSER hub on >{KEYHOLE} ~* &* +@all");
        redis.ask::<String>(&user).await.unwrap();
        let expo = format!("{KEYHOLE} of Expo");
        stand_in.script(|script| script.access_token = Some(expo.clone()));
        let mut config: Config = hub::config(redis.dir());
        eager(&mut config, &stand_in);
        config.log.filter = "debug".into();
        config.auth.query_token = true;
        config.store.url =
            postgres::fresh_database().await.replace("postgres@", &format!("postgres:{KEYHOLE}@"));
        config.store.connections = 5;
        config.bus.url = redis.url().replace("://", &format!("://hub:{KEYHOLE}@"));
        config.push.expo.access_token = expo;
        let secret = source_secret();
        config.ingest.sources = vec![Source { name: "billing".into(), secret: secret.clone() }];
        let hidden = [WORD, KEYHOLE, SECRET, ADMIN_TOKEN, &secret].map(str::to_owned).to_vec();
        let hub = Process::start(config).await;
        eventually("the bus is up", || async { hub.metric("syncline_bus_link_up").await > 0.0 })
            .await;
        Self { hub, redis, stand_in, hidden, problems: Vec::new() }
    }

    /// A token for the project; its parts are looked for.
    fn hide(&mut self, token: String) -> String {
        self.hidden.extend(token.split('.').skip(1).map(str::to_owned));
        token
    }

    fn token(&mut self, user: &str, role: &str) -> String {
        self.hide(token(user, &json!({ "p": role })))
    }

    async fn connect(&mut self, user: &str, role: &str) -> Client {
        let token = self.token(user, role);
        Client::connect(&self.hub.ws(), &token).await
    }

    /// Sends a request that has to be refused.
    async fn refused(&mut self, request: RequestBuilder) {
        let before = self.problems.len();
        self.tried(request).await;
        assert!(self.problems.len() > before, "it was not refused");
    }

    /// Sends a request that may be refused.
    async fn tried(&mut self, request: RequestBuilder) {
        let answer = request.send().await.unwrap();
        if !answer.status().is_success() {
            self.problems.push(answer.text().await.unwrap());
        }
    }

    fn post(&self, path: &str) -> RequestBuilder {
        Http::new().post(format!("{}{path}", self.hub.http()))
    }
}

fn source_secret() -> String {
    format!("{KEYHOLE} of billing, long enough to sign with")
}

fn sign(text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(source_secret().as_bytes()).unwrap();
    mac.update(text.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

fn word() -> Value {
    json!({ "note": WORD })
}

/// Tokens that are not believed, each for its own reason.
fn bad_tokens() -> Vec<String> {
    let now = clock::now_s();
    let expired = json!({ "sub": "ana", "projects": { "p": "editor" }, "exp": now - 9999 });
    let nobody = json!({ "projects": WORD, "exp": now + 99 });
    let forged = token("ana", &json!({ "p": "admin" })).replace('.', &format!(".{KEYHOLE}"));
    vec![
        token_with(&expired),
        token_with(&nobody),
        forged,
        KEYHOLE.into(),
        format!("a.{KEYHOLE}.c"),
    ]
}

async fn handshakes(scene: &mut Scene) {
    let good = scene.token("ana", "editor");
    for (path, header) in [
        ("/v1/ws".to_owned(), ("Authorization", format!("Bearer {good}"))),
        ("/v1/ws".to_owned(), ("Sec-WebSocket-Protocol", format!("syncline.v1, bearer.{good}"))),
        (
            format!("/v1/ws?token={good}&client=web-{WORD}"),
            ("Origin", "https://app.example".into()),
        ),
    ] {
        let mut raw = Raw::open(&scene.hub.ws()).await;
        raw.send(handshake(&path, &[(header.0, &header.1)])).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
    // Refused before there is a socket, with a token in the address.
    let request =
        handshake(&format!("/v1/ws?token={good}"), &[]).replace("Version: 13", "Version: 8");
    let mut raw = Raw::open(&scene.hub.ws()).await;
    raw.send(request.replace("Upgrade\r\n", "Upgrade, close\r\n")).await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    scene.problems.push(head);
    for bad in bad_tokens() {
        let bad = scene.hide(bad);
        let (frames, _) = Client::open(&scene.hub.ws(), Some(&bad)).await.unwrap().end().await;
        scene.problems.push(json!(frames).to_string());
        let asked = scene.post(OPS).bearer_auth(&bad).body(json!({ "ops": [] }).to_string());
        scene.refused(asked).await;
        let mut late = Client::open(&scene.hub.ws(), None).await.unwrap();
        late.send(&json!({ "type": "connect", "token": bad })).await;
        scene.problems.push(json!(late.end().await.0).to_string());
    }
}

async fn writes(scene: &mut Scene) {
    let mut ana = scene.connect("ana", "editor").await;
    ana.subscribe(json!([{ "room": "project:p" }, { "room": "room:p:x", "presence": true }])).await;
    let fresh = scene.token("ana", "editor");
    assert_eq!(ana.ask(json!({ "type": "refresh", "token": fresh })).await["type"], "refreshed");
    let mut notified = create("1", "t1", &word());
    notified["notify"] =
        json!({ "users": ["bo"], "title": WORD, "body": WORD, "data": word(), "lane": "critical" });
    let applied = ana
        .write(
            "p",
            json!([notified, update("2", "t1", 1, &json!({ "note": format!("{WORD} again") }))]),
        )
        .await;
    assert!(applied.iter().all(|verdict| verdict["outcome"] == "applied"), "{applied:?}");
    let mut cy = scene.connect("cy", "editor").await;
    let stale = update("3", "t1", 0, &json!({ "note": format!("{WORD} too") }));
    assert_ne!(cy.write("p", json!([stale])).await[0]["outcome"], "applied");
    for told in [
        json!({ "type": "presence", "room": "room:p:x", "state": word() }),
        json!({ "type": "broadcast", "room": "room:p:x", "event": "e", "data": word() }),
    ] {
        assert_eq!(ana.ask(told).await["type"], "ok");
    }
    let mut eve = scene.connect("eve", "viewer").await;
    let refused = eve.write("p", json!([create("4", "t2", &word())])).await;
    assert_eq!(refused[0]["code"], "forbidden");
    let frame = |ops: Value| json!({ "type": "write", "project": "p", "ops": ops }).to_string();
    for wrong in [
        frame(json!(WORD)),
        frame(json!([create("5", "t3", &json!(WORD))])),
        format!("{{\"type\":\"write\",\"{WORD}"),
        format!("{WORD} {KEYHOLE}"),
    ] {
        let _closed_already = ana.try_send(&wrong).await;
    }
    ana.send_bytes([WORD.as_bytes(), b"\xff\xfe"].concat()).await;
    ana.end().await;
    let mut long = scene.connect("ana", "editor").await;
    long.send_bytes(WORD.repeat(1 << 20).into_bytes()).await;
    long.end().await;
}

async fn requests(scene: &mut Scene) {
    let editor = scene.token("ana", "editor");
    let viewer = scene.token("eve", "viewer");
    let ops = json!({ "ops": [create("6", "t4", &word())] }).to_string();
    let unfit = [
        format!("{WORD} {KEYHOLE}"),
        json!(WORD).to_string(),
        json!({ "ops": WORD }).to_string(),
        json!({ "ops": [], "client": [WORD] }).to_string(),
        json!({ "ops": [], "sent_at": WORD }).to_string(),
        format!("{{\"ops\":[{{\"fields\":{{\"note\":\"{WORD}"),
    ];
    for body in unfit.into_iter().chain([ops.replace("t4", "t 4\\u0000")]) {
        for path in [OPS, "/v1/push/devices", "/v1/push/received", "/v1/sync/failed/retry"] {
            let asked = scene.post(path).bearer_auth(&editor).body(body.clone());
            scene.tried(asked).await;
        }
        let asked = scene.post("/v1/admin/tokens/revoke").bearer_auth(ADMIN_TOKEN).body(body);
        scene.tried(asked).await;
    }
    let meant =
        scene.post(OPS).bearer_auth(&viewer).header("syncline-user", WORD).body(ops.clone());
    scene.refused(meant).await;
    let stranger = scene.post("/v1/admin/tokens/revoke").bearer_auth(KEYHOLE).body(ops.clone());
    scene.refused(stranger).await;
    for query in [format!("since={WORD}"), format!("token={editor}")] {
        let path = format!("{}/v1/projects/p/changes?{query}", scene.hub.http());
        scene.refused(Http::new().get(path)).await;
    }
    let basic = scene.post(OPS).basic_auth(WORD, Some(KEYHOLE)).body(ops);
    scene.refused(basic).await;
}

/// Everything a backend can get wrong, by all three ways, and one thing that is right.
async fn events(scene: &mut Scene) {
    let good = json!({ "id": "e1", "project": "p", "kind": "upsert", "source": "billing",
        "entity": { "type": "task", "id": "t9" }, "fields": word() });
    let with = |member: &str, value: Value| {
        let mut event = good.clone();
        event[member] = value;
        event.to_string()
    };
    let unfit = [
        format!("{WORD} {KEYHOLE}"),
        with("fields", json!(WORD)),
        with("fields", json!([WORD])),
        with("source_version", json!(WORD)),
        with("kind", json!("patch")).replace("t9", "none").replace("e1", "e2"),
    ];
    let client = redis_client(&scene.redis).await;
    for event in unfit.iter().chain([&good.to_string()]) {
        for sig in [sign(event), KEYHOLE.to_owned(), sign("another")] {
            scene.hidden.push(sig.clone());
            let mut link = client.clone();
            let added: ::redis::Value = ::redis::cmd("XADD")
                .arg(&["syncline:ingest", "*", "event", event, "sig", &sig])
                .query_async(&mut link)
                .await
                .unwrap();
            drop(added);
            let message = format!("{sig}.{event}");
            let _heard: u64 = ::redis::cmd("PUBLISH")
                .arg(&["syncline:publish", &message])
                .query_async(&mut link)
                .await
                .unwrap();
            let asked = scene.post("/v1/publish").header("x-syncline-signature", &sig);
            let answer = asked.body(event.clone()).send().await.unwrap();
            let text = answer.text().await.unwrap();
            scene.problems.push(text);
        }
    }
    let hub = &scene.hub;
    eventually("dead letters are made", || async {
        let dead = "syncline_ingest_events_total{way=\"stream\",outcome=\"dead\"}";
        hub.metric(dead).await == 17.0
    })
    .await;
}

async fn redis_client(server: &redis::Server) -> ::redis::aio::MultiplexedConnection {
    let client = ::redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// A push that gets through, after everything that can be the matter with Expo.
async fn pushes(scene: &mut Scene) {
    let bo = scene.token("bo", "viewer");
    let device = json!({ "client": "phone", "provider": "expo", "platform": "ios",
        "token": format!("ExponentPushToken[{KEYHOLE}]") });
    let asked = scene.post("/v1/push/devices").bearer_auth(&bo).body(device.to_string());
    assert_eq!(asked.send().await.unwrap().status(), 200);
    scene.stand_in.script(|script| {
        let page = Behaviour::Status { status: 500, retry_after: None, dated: false };
        script.next.extend([page, Behaviour::NotJson]);
    });
    let mut ana = scene.connect("ana", "editor").await;
    for n in 0..6 {
        let mut op = create(&format!("push-{n}"), &format!("push-{n}"), &word());
        op["notify"] = json!({ "users": ["bo"], "title": WORD, "body": WORD, "lane": "critical", "data": word() });
        assert_eq!(ana.write("p", json!([op])).await[0]["outcome"], "applied");
    }
    let stand_in = &scene.stand_in;
    eventually("pushes get through", || async { !stand_in.sent().is_empty() }).await;
    stand_in.script(|script| script.access_token = Some("another".into()));
    let mut op = create("push-9", "push-9", &word());
    op["notify"] = json!({ "users": ["bo"], "title": WORD, "lane": "critical" });
    ana.write("p", json!([op])).await;
    let hub = &scene.hub;
    eventually("Expo does not accept the credentials", || async {
        hub.metric("syncline_push_held{reason=\"credentials\"}").await > 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payload_token_or_secret_is_in_a_log_or_an_error() {
    let mut scene = Scene::new().await;
    handshakes(&mut scene).await;
    writes(&mut scene).await;
    requests(&mut scene).await;
    events(&mut scene).await;
    pushes(&mut scene).await;
    scene.hub.terminate().await;
    assert!(scene.hub.exited().await.success());

    let log = scene.hub.log();
    for level in ["\"level\":\"DEBUG\"", "\"level\":\"WARN\"", "\"message\":\"stopped\""] {
        assert!(log.contains(level), "the log has no {level}");
    }
    assert!(scene.problems.len() > 50);
    for hidden in scene.hidden.iter().filter(|hidden| hidden.len() > 3) {
        let seen: Vec<_> = log.lines().filter(|line| line.contains(&**hidden)).collect();
        assert!(seen.is_empty(), "{hidden:?} is in the log: {seen:#?}");
        let told: Vec<_> = scene.problems.iter().filter(|text| text.contains(&**hidden)).collect();
        assert!(told.is_empty(), "{hidden:?} is in an error: {told:#?}");
    }
}
