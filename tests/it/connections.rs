//! Handshakes, frames and heartbeats: what a connection may do, and how each misuse ends.

use std::net::IpAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use syncline::config::{Config, Limits};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::Duration;

use crate::support::client::{Client, End};
use crate::support::eventually;
use crate::support::hub::{SECRET, TestHub, token};
use crate::support::raw::{Heard, KEY, Raw, authority, frame, handshake, text};

fn ana() -> String {
    token("ana", &json!({ "p": "editor" }))
}

async fn raw(hub: &TestHub, path: &str, headers: &[(&str, &str)]) -> (Raw, String) {
    let mut raw = Raw::open(&hub.ws()).await;
    raw.send(handshake(path, headers)).await;
    let head = raw.head().await;
    (raw, head.to_lowercase())
}

/// Opens a session and returns its socket.
async fn session(hub: &TestHub) -> Raw {
    let mut raw = Raw::open(&hub.ws()).await;
    raw.upgrade(&ana()).await;
    raw.expect("connected").await;
    raw
}

#[tokio::test]
async fn a_token_is_taken_from_each_of_its_places() {
    let hub = TestHub::start().await;
    let (bearer, offered) = (format!("bearer {}", ana()), format!("syncline.v1, bearer.{}", ana()));

    let (mut header, head) = raw(&hub, "/v1/ws?client=c1", &[("Authorization", &bearer)]).await;
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    assert_eq!(header.expect("connected").await["user"], "ana");

    let (mut protocol, head) = raw(&hub, "/v1/ws", &[("Sec-WebSocket-Protocol", &offered)]).await;
    assert!(head.contains("sec-websocket-protocol: syncline.v1\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    assert_eq!(protocol.expect("connected").await["user"], "ana");

    let (mut framed, _) = raw(&hub, "/v1/ws", &[("Sec-WebSocket-Protocol", "syncline.v1")]).await;
    let connect =
        json!({ "type": "connect", "id": 7, "token": ana(), "client": "c1", "active": false });
    framed.send(text(&connect)).await;
    let connected = framed.expect("connected").await;
    assert_eq!((&connected["id"], &connected["user"]), (&json!(7), &json!("ana")));
    assert_eq!(connected["projects"], json!({ "p": { "role": "editor" } }));

    // With a token in the handshake, `connect` introduces the installation, token or not.
    for frame in [json!({ "type": "connect", "id": 8, "client": "c2" }), {
        json!({ "type": "connect", "id": 8, "client": "c2", "token": ana() })
    }] {
        header.send(text(&frame)).await;
        assert_eq!(header.expect("connected").await["id"], 8, "{frame}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_token_in_the_query_counts_only_if_configured() {
    let path = format!("/v1/ws?x=1&token={}", ana());
    let hub = TestHub::start().await;
    let (mut ignored, _) = raw(&hub, &path, &[]).await;
    ignored.send(text(&json!({ "type": "subscribe", "id": 1, "rooms": [] }))).await;
    assert_eq!(ignored.expect("error").await["code"], "unauthorized");
    hub.stop().await;

    let hub = TestHub::start_with(|config| config.auth.query_token = true).await;
    let (mut taken, _) = raw(&hub, &path, &[]).await;
    assert_eq!(taken.expect("connected").await["user"], "ana");
    hub.stop().await;
}

#[tokio::test]
async fn a_token_is_never_logged() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nshards = 1\n\
         [auth]\nquery_token = true\n[[auth.hmac]]\nalgorithm = \"HS256\"\nsecret = \"{SECRET}\"\n\
         [store]\nurl = \"sqlite:{}\"\n[log]\nfilter = \"trace\"\nformat = \"json\"\n",
        dir.path().join("hub.db").display()
    );
    std::fs::write(dir.path().join("hub.toml"), config).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["serve", "--config"])
        .arg(dir.path().join("hub.toml"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let mut log = String::new();
    let mut address = None;
    while address.is_none() {
        let line = lines.next_line().await.unwrap().unwrap_or_else(|| panic!("no start: {log}"));
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        if entry["message"] == "the hub is ready" {
            address = entry["address"].as_str().map(str::to_owned);
        }
        log.push_str(&line);
    }
    let url = format!("ws://{}/v1/ws", address.unwrap());
    let (good, bad) = (ana(), ana() + "x");
    for token in [&good, &bad] {
        let bearer = format!("Bearer {token}");
        let offered = format!("syncline.v1, bearer.{token}");
        for (path, header) in [
            (format!("/v1/ws?token={token}"), ("X-None", "1")),
            ("/v1/ws".into(), ("Authorization", &*bearer)),
            ("/v1/ws".into(), ("Sec-WebSocket-Protocol", &offered)),
            (format!("/v1/none?token={token}"), ("Authorization", &bearer)),
        ] {
            let mut raw = Raw::open(&url).await;
            raw.send(handshake(&path, &[header])).await;
            raw.head().await;
        }
        let mut client = Client::open(&url, None).await.unwrap();
        client.ask(json!({ "type": "connect", "token": token })).await;
        client.ask(json!({ "type": "refresh", "token": token })).await;
    }
    let pid = process.id().unwrap().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    while let Some(line) = lines.next_line().await.unwrap() {
        log.push_str(&line);
    }
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    for part in parts(&good).iter().skip(1) {
        assert!(!log.contains(part), "a part of a token was logged");
    }
    assert!(!log.contains(SECRET), "the secret was logged");
    assert!(log.contains("connection closed"), "the log has little to say: {log}");
}

#[tokio::test]
async fn a_bad_handshake_gets_a_problem() {
    let hub =
        TestHub::start_with(|c| c.server.allowed_origins = vec!["https://app.example".into()])
            .await;
    let good = handshake("/v1/ws", &[("Origin", "https://app.example")]);
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for (what, request, status) in [
        ("no key", good.replace(&key, ""), 400),
        ("a short key", good.replace(KEY, "c2hvcnQ="), 400),
        ("version 8", good.replace("Version: 13", "Version: 8"), 400),
        ("no version", good.replace("Sec-WebSocket-Version: 13\r\n", ""), 400),
        (
            "POST",
            good.replace("GET", "POST").replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n"),
            400,
        ),
        ("no upgrade", good.replace("Upgrade: websocket\r\n", ""), 400),
        ("another upgrade", good.replace("Upgrade: websocket", "Upgrade: h2c"), 400),
        ("another origin", good.replace("app.example", "evil.example"), 403),
        (
            "an origin that begins well",
            good.replace("app.example", "app.example.evil.example"),
            403,
        ),
        ("the null origin", good.replace("https://app.example", "null"), 403),
        (
            "another subprotocol",
            good.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n"),
            400,
        ),
    ] {
        let mut raw = Raw::open(&hub.ws()).await;
        raw.send(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
        let head = raw.head().await.to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{what}: {head}");
        assert!(head.contains("content-type: application/problem+json"), "{what}: {head}");
    }
    let mut raw = Raw::open(&hub.ws()).await;
    raw.send(good).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101"));
    hub.stop().await;
}

#[tokio::test]
async fn who_takes_too_long_to_begin_is_cut_off() {
    let hub = TestHub::start_with(|config| {
        config.server.connect_timeout = Duration::from_millis(300);
    })
    .await;
    let mut silent = Raw::open(&hub.ws()).await;
    assert_eq!(silent.read_out().await, "", "nothing sent");
    let mut slow = Raw::open(&hub.ws()).await;
    slow.send("GET /v1/ws HTTP/1.1\r\nHost: hub\r\n").await;
    assert!(!slow.read_out().await.contains(" 101 "), "half a head");

    let mut nameless = Client::open(&hub.ws(), None).await.unwrap();
    nameless.ask(json!({ "type": "ping" })).await;
    nameless.ask(json!({ "type": "connect", "token": "bad" })).await;
    assert_eq!(nameless.end().await.1, End::Closed(4408));
    eventually("it is gone", || async { hub.metric("syncline_connections") == 0.0 }).await;
    hub.stop().await;
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_with_their_code() {
    let hub = TestHub::start_with(|config| config.limits.frame_bytes = 1000).await;
    let mut unmasked = vec![0x81, 2];
    unmasked.extend(b"{}");
    // A header that announces 2^62 bytes, its mask, and nothing of them.
    let mut huge = vec![0x81, 0xff];
    huge.extend((1_u64 << 62).to_be_bytes());
    huge.extend([0; 4]);
    for (what, bytes, code) in [
        ("too large", frame(1, true, &[b' '; 1001]), 4413),
        (
            "too large in fragments",
            [frame(1, false, &[b' '; 600]), frame(0, true, &[b' '; 600])].concat(),
            4413,
        ),
        ("too large by its header alone", huge, 4413),
        ("binary", frame(2, true, b"{}"), 4400),
        ("unmasked", unmasked, 4400),
        ("not UTF-8", frame(1, true, &[0xff, 0xfe]), 4400),
        ("a reserved bit", frame(0x41, true, b"{}"), 4400),
        ("a stray continuation", frame(0, true, b"{}"), 4400),
        ("a fragmented ping", frame(9, false, b"{}"), 4400),
    ] {
        let mut raw = session(&hub).await;
        raw.send(bytes).await;
        assert_eq!(raw.end().await, (vec![], Some(code)), "{what}");
    }
    let mut polite = session(&hub).await;
    polite.send(frame(8, true, &1000_u16.to_be_bytes())).await;
    assert_eq!(polite.end().await, (vec![], Some(1000)));
    eventually("all are gone", || async { hub.metric("syncline_connections") == 0.0 }).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_stranger_may_send_a_token_and_no_more() {
    let hub = TestHub::start().await;
    let nameless = async || {
        let (raw, _) = raw(&hub, "/v1/ws", &[]).await;
        raw
    };
    // The header alone announces too much: nothing of the message is kept.
    let mut stranger = nameless().await;
    stranger.send(&frame(1, true, &[b' '; (16 << 10) + 1])[..8]).await;
    assert_eq!(stranger.end().await, (vec![], Some(4413)));
    let mut stranger = nameless().await;
    stranger.send(frame(1, false, &[b' '; 10 << 10])).await;
    stranger.send(frame(0, true, &[b' '; 10 << 10])).await;
    assert_eq!(stranger.end().await, (vec![], Some(4413)));

    // What comes right behind a good token may have any size already.
    let mut ana = nameless().await;
    let mut connect = json!({ "type": "connect", "token": self::ana() });
    connect["device"] = json!("x".repeat(15 << 10));
    let ping = json!({ "type": "ping", "id": 1, "x": "x".repeat(100 << 10) });
    ana.send([text(&connect), text(&ping)].concat()).await;
    ana.expect("connected").await;
    assert_eq!(ana.expect("pong").await["id"], 1);
    hub.stop().await;
}

#[tokio::test]
async fn frames_arrive_however_they_are_cut() {
    let hub = TestHub::start().await;
    let ping = |id: u64| json!({ "type": "ping", "id": id }).to_string();
    let mut raw = session(&hub).await;

    let whole = ping(1);
    let (first, second) = whole.as_bytes().split_at(7);
    raw.send([frame(1, false, first), frame(9, true, b"between"), frame(0, true, second)].concat())
        .await;
    assert_eq!(raw.hear().await, Some(Heard::Pong(b"between".to_vec())));
    assert_eq!(raw.expect("pong").await["id"], 1);

    // Each byte on its own, then many frames at once.
    for byte in frame(1, true, ping(2).as_bytes()) {
        raw.send([byte]).await;
    }
    assert_eq!(raw.expect("pong").await["id"], 2);
    let many: Vec<u8> = (3..103).flat_map(|id| frame(1, true, ping(id).as_bytes())).collect();
    raw.send(many).await;
    for id in 3..103 {
        assert_eq!(raw.expect("pong").await["id"], id);
    }

    // Frames that come with the handshake in one packet.
    let bearer = format!("Bearer {}", ana());
    let mut early = handshake("/v1/ws", &[("Authorization", &bearer)]).into_bytes();
    early.extend(frame(1, true, ping(1).as_bytes()));
    let mut eager = Raw::open(&hub.ws()).await;
    eager.send(early).await;
    eager.head().await;
    eager.expect("connected").await;
    assert_eq!(eager.expect("pong").await["id"], 1);

    let half = frame(1, true, &[b' '; 5000]);
    raw.send(&half[..3000]).await;
    drop(raw);
    drop(eager);
    eventually("half a frame keeps nothing", || async {
        hub.metric("syncline_connections") == 0.0
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_and_survived() {
    let hub = TestHub::start().await;
    let mut client = Client::connect(&hub.ws(), &ana()).await;
    for (text, code) in [
        ("", "bad_request"),
        ("nonsense", "bad_request"),
        ("[1]", "bad_request"),
        ("null", "bad_request"),
        (r#"{"id":1}"#, "bad_request"),
        (r#"{"type":"dance","id":1}"#, "unknown_type"),
        (r#"{"type":"subscribe","rooms":"project:p"}"#, "bad_request"),
        (r#"{"type":"write","project":"a b","ops":[]}"#, "bad_request"),
        (r#"{"type":"broadcast","room":"nowhere","event":"e"}"#, "bad_request"),
        (r#"{"type":"broadcast","room":"room:p:x","event":""}"#, "bad_request"),
        (r#"{"type":"broadcast","room":"project:p","event":"e"}"#, "bad_request"),
        (r#"{"type":"presence","room":"user:ana","state":1}"#, "bad_request"),
        (r#"{"type":"presence","room":"room:p:x","state":1}"#, "not_subscribed"),
        (r#"{"type":"ack","project":"p"}"#, "bad_request"),
        (r#"{"type":"ping","id":{}}"#, "bad_request"),
    ] {
        client.send_text(text).await;
        assert_eq!(client.expect("error").await["code"], code, "{text}");
    }
    let deep = format!(r#"{{"type":"ping","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    client.send_text(&deep).await;
    client.expect("pong").await;
    let op =
        deep.replace(r#""type":"ping""#, r#""op_id":"o","kind":"create","type":"task","id":"t""#);
    let op = op.replace("\"x\":", "\"fields\":{\"x\":") + "}";
    client.send_text(&format!(r#"{{"type":"write","project":"p","ops":[{op}]}}"#)).await;
    assert_eq!(client.expect("written").await["verdicts"][0]["code"], "bad_request");
    assert_eq!(client.settle().await, [] as [Value; 0]);
    hub.stop().await;
}

#[tokio::test]
async fn who_floods_on_is_told_so_and_closed() {
    let hub = TestHub::start_with(|config| config.limits.frames_per_second = 5).await;
    for flood in [text(&json!({ "type": "ping", "id": 1 })), frame(9, true, b"ping")] {
        let mut raw = session(&hub).await;
        raw.send(flood.repeat(1000)).await;
        let (answers, code) = raw.end().await;
        assert_eq!(code, Some(4201), "{answers:?}");
        let told = answers.iter().filter(|answer| answer["code"] == "rate_limited").count();
        assert!(told < 100, "{told} answers to a flood");
    }
    eventually("both are gone", || async { hub.metric("syncline_connections") == 0.0 }).await;
    hub.stop().await;
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_closed() {
    let hub = TestHub::start_with(|config| {
        config.server.ping_interval = Duration::from_secs(1);
        config.server.pong_timeout = Duration::from_secs(3);
    })
    .await;
    let mut silent = session(&hub).await;
    let mut alive = Client::connect(&hub.ws(), &ana()).await;
    let heard = async {
        let mut pings = 0;
        loop {
            match silent.hear().await {
                Some(Heard::Ping) => pings += 1,
                Some(Heard::Close(code)) => return (pings, code),
                other => panic!("{other:?}"),
            }
        }
    };
    // Reading is enough for `alive`: its library answers pings.
    let outcome = tokio::select! {
        outcome = heard => outcome,
        read = alive.read() => panic!("{read:?}"),
    };
    assert_eq!(outcome, (1, 4002));
    alive.settle().await;
    hub.stop().await;
}

async fn outcome(hub: &TestHub, user: &str, forwarded: &str) -> (Raw, Option<u16>) {
    let bearer = format!("Bearer {}", token(user, &json!({})));
    let (mut raw, _) =
        raw(hub, "/v1/ws", &[("Authorization", &bearer), ("X-Forwarded-For", forwarded)]).await;
    match raw.hear().await {
        Some(Heard::Text(_)) => (raw, None),
        Some(Heard::Close(code)) => (raw, Some(code)),
        other => panic!("{other:?}"),
    }
}

/// How often somebody was refused because of a limit.
fn refused(hub: &TestHub, what: &str) -> f64 {
    hub.metric(&format!("syncline_rate_limited_total{{what=\"{what}\"}}"))
}

async fn hub_with(change: impl FnOnce(&mut Config)) -> TestHub {
    TestHub::start_with(change).await
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_only_proxies_speak_for_others() {
    let hub = hub_with(|config| config.limits.connections_per_ip = 1).await;
    let (first, code) = outcome(&hub, "a", "192.0.2.1").await;
    assert_eq!(code, None);
    assert_eq!(outcome(&hub, "b", "192.0.2.1").await.1, Some(4201));
    assert_eq!(
        outcome(&hub, "b", "198.51.100.7, 192.0.2.1").await.1,
        Some(4201),
        "the last counts"
    );
    assert_eq!(outcome(&hub, "c", "192.0.2.1, 192.0.2.2").await.1, None);
    drop(first);
    eventually("the place is free again", || async {
        outcome(&hub, "d", "192.0.2.1").await.1.is_none()
    })
    .await;
    hub.stop().await;

    let hub = hub_with(|config| {
        config.limits.connections_per_ip = 1;
        config.server.trusted_proxies = vec![[192, 0, 2, 9].into()];
    })
    .await;
    let (_first, code) = outcome(&hub, "a", "192.0.2.1").await;
    assert_eq!(code, None);
    assert_eq!(outcome(&hub, "b", "192.0.2.2").await.1, Some(4201), "a stranger's word is nothing");
    assert_eq!(refused(&hub, "connections_per_ip"), 1.0);
    hub.stop().await;
}

#[tokio::test]
async fn a_user_and_the_hub_have_so_many_connections() {
    let hub = hub_with(|config| config.limits.connections_per_user = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (raw, code) = outcome(&hub, "ana", "").await;
        assert_eq!(code, None);
        held.push(raw);
    }
    // The third is told its session, or not, and then that it is one too many.
    assert_eq!(outcome(&hub, "ana", "").await.1, Some(4201));
    assert_eq!(refused(&hub, "connections_per_user"), 1.0);
    assert_eq!(outcome(&hub, "bo", "").await.1, None);
    drop(held);
    eventually("her places are free again", || async {
        outcome(&hub, "ana", "").await.1.is_none()
    })
    .await;
    hub.stop().await;

    let hub = hub_with(|config| config.limits.connections = 1).await;
    let (_first, code) = outcome(&hub, "ana", "").await;
    assert_eq!(code, None);
    assert_eq!(outcome(&hub, "bo", "").await.1, Some(4200));
    assert_eq!(refused(&hub, "connections"), 1.0);
    hub.stop().await;
}

#[tokio::test]
async fn connections_over_http_are_counted_too() {
    for (limit, change) in [
        ("http_connections", (|limits| limits.http_connections = 2) as fn(&mut Limits)),
        ("http_connections_per_ip", |limits| limits.http_connections_per_ip = 2),
    ] {
        let hub = hub_with(|config| {
            config.server.trusted_proxies.clear();
            change(&mut config.limits);
        })
        .await;
        let open = || hub.metric("syncline_http_connections");
        let (first, second) = (Raw::open(&hub.ws()).await, Raw::open(&hub.ws()).await);
        eventually("both are counted", || async { open() == 2.0 }).await;
        let mut third = Raw::open(&hub.ws()).await;
        let answer = third.read_out().await.to_lowercase();
        assert!(answer.starts_with("http/1.1 503"), "{limit}: {answer}");
        assert!(answer.contains("retry-after: 5"), "{limit}: {answer}");
        assert_eq!(refused(&hub, limit), 1.0, "{limit}");

        drop(first);
        eventually("one left", || async { open() == 1.0 }).await;
        let (session, code) = outcome(&hub, "ana", "").await;
        assert_eq!(code, None, "{limit}");
        eventually("a WebSocket is no guest any more", || async { open() == 1.0 }).await;
        drop((second, session));
        eventually("nobody is left", || async { open() == 0.0 && hub.hub().guests.all() == 0 })
            .await;
        hub.stop().await;
    }
}

#[tokio::test]
async fn guests_from_one_address_leave_places_for_those_from_others() {
    let hub = hub_with(|config| {
        config.server.trusted_proxies.clear();
        config.limits.http_connections_per_ip = 1;
    })
    .await;
    let _guest = Raw::open(&hub.ws()).await;
    eventually("it is counted", || async { hub.metric("syncline_http_connections") == 1.0 }).await;
    assert!(Raw::open(&hub.ws()).await.read_out().await.starts_with("HTTP/1.1 503"));
    let elsewhere = reqwest::Client::builder().local_address(IpAddr::from([127, 0, 0, 2]));
    let answer = elsewhere.build().unwrap().get(hub.http("/v1/cache-policies")).send().await;
    assert_eq!(answer.unwrap().status(), 401);
    hub.stop().await;
}

#[tokio::test]
async fn who_says_nothing_after_a_request_is_cut_off() {
    let hub = hub_with(|config| config.server.connect_timeout = Duration::from_secs(1)).await;
    let mut idle = Raw::open(&hub.ws()).await;
    idle.send("GET /v1/none HTTP/1.1\r\nHost: hub\r\n\r\n").await;
    let head = idle.head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 404") && !head.contains("connection: close"), "{head}");
    idle.read_out().await;
    eventually("it is gone", || async { hub.metric("syncline_http_connections") == 0.0 }).await;
    hub.stop().await;
}

#[tokio::test]
async fn above_the_high_water_mark_nobody_new_is_let_in() {
    let hub = hub_with(|config| config.limits.memory_bytes = 1).await;
    eventually("the mark is seen", || async { outcome(&hub, "ana", "").await.1 == Some(4200) })
        .await;
    assert_eq!(refused(&hub, "memory"), 1.0);
    let health = reqwest::get(hub.operators("/health/live")).await.unwrap();
    assert_eq!(health.status(), 200);
    hub.stop().await;
}

#[tokio::test]
async fn many_handshakes_that_are_given_up_leave_nothing() {
    let hub = hub_with(|_| {}).await;
    for cut in 1..40 {
        let request = handshake("/v1/ws", &[("Authorization", &format!("Bearer {}", ana()))]);
        let mut raw = Raw::open(&hub.ws()).await;
        raw.send(&request[..request.len() * cut / 40]).await;
        raw.reset();
        let mut raw = Raw::open(&hub.ws()).await;
        raw.send(&request).await;
        raw.reset();
    }
    eventually("all are gone", || async {
        hub.hub().relay.fanout.connections() == 0
            && hub.hub().relay.fanout.connected_users().is_empty()
    })
    .await;
    let address: std::net::SocketAddr = authority(&hub.ws()).parse().unwrap();
    assert_eq!(hub.hub().relay.fanout.connections_from(address.ip()), 0);
    hub.stop().await;
}
