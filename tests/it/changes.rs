//! Delta sync over HTTP: long replies, compressed ones, parts of the state, checksums.

use std::time::Duration;

use reqwest::Response;
use serde_json::{Value, json};
use syncline::id::Seq;
use syncline::protocol::sums::{Sums, bucket};

use crate::support::client::{Client, create, update};
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::plan::task;
use crate::support::raw::Raw;

async fn send(hub: &TestHub, role: &str, path: &str, gzip: bool) -> Response {
    let token = token("ana", &json!({ "p": role }));
    // It would unpack replies by itself and hide that they were packed.
    let client = reqwest::Client::builder().no_gzip().no_deflate().build().unwrap();
    let mut request = client.get(hub.http(path)).bearer_auth(token);
    if gzip {
        request = request.header("accept-encoding", "gzip");
    }
    request.send().await.unwrap()
}

async fn get(hub: &TestHub, path: &str) -> Value {
    let answer = send(hub, "editor", path, false).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

async fn write(hub: &TestHub, ops: &[Value]) {
    let token = token("ana", &json!({ "p": "editor" }));
    for ops in ops.chunks(500) {
        let request = reqwest::Client::new().post(hub.http("/v1/projects/p/ops"));
        let body = json!({ "ops": ops }).to_string();
        let answer = request.bearer_auth(&token).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.unwrap();
        let verdicts = answer["verdicts"].as_array().unwrap();
        assert!(verdicts.iter().all(|verdict| verdict["outcome"] == "applied"));
    }
}

fn tasks(range: std::ops::Range<u32>) -> Vec<Value> {
    let text = "a description that takes some room ".repeat(3);
    range
        .map(|n| create(&format!("c{n}"), &format!("t{n}"), &json!({ "n": n, "text": text })))
        .collect()
}

fn note(id: &str) -> Value {
    json!({ "op_id": format!("note {id}"), "kind": "create", "type": "note", "id": id, "fields": {} })
}

#[tokio::test]
async fn a_long_reply_is_written_while_it_is_read_and_says_the_same() {
    let hub = TestHub::start_with(|config| config.limits.delta_rows = 1_800).await;
    write(&hub, &tasks(0..2_000)).await;
    let whole = send(&hub, "editor", "/v1/projects/p/changes?limit=100000", false).await;
    assert_eq!(whole.headers().get("content-length"), None);
    assert_eq!(whole.headers()["content-type"], "application/json");
    let whole: Value = whole.json().await.unwrap();
    assert_eq!(whole["changes"].as_array().unwrap().len(), 1_800, "the operator's limit");
    assert_eq!((&whole["next"], &whole["more"]), (&json!(1_800), &json!(true)));
    assert_eq!(whole["begun"], 2_000);

    let (mut pages, mut since, mut end) = (Vec::new(), 0, Value::Null);
    while end != json!(false) {
        let page = get(&hub, &format!("/v1/projects/p/changes?since={since}&begun=2000")).await;
        pages.extend(page["changes"].as_array().unwrap().clone());
        (since, end) = (page["next"].as_u64().unwrap(), page["more"].clone());
        assert_eq!(page["resync"], Value::Null);
    }
    assert_eq!(since, 2_000);
    assert_eq!(pages[..1_800], whole["changes"].as_array().unwrap()[..]);
    assert_eq!(pages.len(), 2_000);
    hub.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_cut_off() {
    let patience = Duration::from_millis(200);
    let hub = TestHub::start_with(|config| config.server.write_timeout = patience).await;
    // More than the kernel keeps for a connection: 12 MB.
    let text = "x".repeat(60_000);
    for n in 0..40 {
        let row = |m: u32| {
            let name = format!("{n}-{m}");
            create(&name, &name, &json!({ "a": text, "b": text, "c": text }))
        };
        write(&hub, &[row(0), row(1)]).await;
    }
    let mut reader = Raw::open_narrow(&hub.ws()).await;
    let token = token("ana", &json!({ "p": "editor" }));
    let request = "GET /v1/projects/p/changes?limit=1000 HTTP/1.1\r\nhost: hub\r\n";
    reader.send(format!("{request}authorization: Bearer {token}\r\n\r\n")).await;
    assert!(reader.head().await.starts_with("HTTP/1.1 200"));
    let connections = || hub.metric("syncline_http_connections");
    eventually("its connection is closed", || async { connections() == 0.0 }).await;
    let read = reader.read_out().await;
    assert!(read.len() < 12_000_000 && !read.ends_with("\r\n0\r\n\r\n"), "{}", read.len());

    // Whoever reads is served.
    let whole = get(&hub, "/v1/projects/p/changes?limit=1000").await;
    assert_eq!(whole["changes"].as_array().unwrap().len(), 80);
    hub.stop().await;
}

#[tokio::test]
async fn large_replies_are_compressed_for_those_who_ask_and_small_ones_for_nobody() {
    let hub = TestHub::start().await;
    write(&hub, &tasks(0..1_500)).await;
    let all = "/v1/projects/p/changes?limit=100000";
    let plain = send(&hub, "editor", all, false).await;
    assert_eq!(plain.headers().get("content-encoding"), None);
    let plain = plain.bytes().await.unwrap();
    let packed = send(&hub, "editor", all, true).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "accept-encoding");
    let packed = packed.bytes().await.unwrap();
    assert!(packed.len() * 5 < plain.len(), "{} of {} bytes", packed.len(), plain.len());
    assert_eq!(unzip(&packed), plain);
    let small = send(&hub, "editor", "/v1/projects/p/changes?limit=5", true).await;
    assert_eq!(small.headers().get("content-encoding"), None);
    assert!(small.headers().contains_key("content-length"));
    hub.stop().await;
}

/// With the system's `gzip`, so that no code is tested with itself.
fn unzip(packed: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, packed) = (gzip.stdin.take().unwrap(), packed.to_owned());
    let writing = std::thread::spawn(move || stdin.write_all(&packed).unwrap());
    let output = gzip.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test]
async fn types_and_buckets_choose_and_the_role_has_the_last_word() {
    let hub = TestHub::start_with(|config| {
        config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
    })
    .await;
    write(&hub, &tasks(0..40)).await;
    write(&hub, &[note("a"), note("b")]).await;
    let ids = |page: &Value| -> Vec<String> {
        let changes = page["changes"].as_array().unwrap().iter();
        changes.map(|change| change["entity"]["id"].as_str().unwrap().to_owned()).collect()
    };
    let notes = get(&hub, "/v1/projects/p/changes?types=note,payroll").await;
    assert_eq!((ids(&notes), &notes["next"]), (vec!["a".into(), "b".into()], &json!(42)));
    let viewer = send(&hub, "viewer", "/v1/projects/p/changes?types=note", false).await;
    let viewer: Value = viewer.json().await.unwrap();
    assert_eq!(
        (ids(&viewer).len(), &viewer["next"], &viewer["more"]),
        (0, &json!(42), &json!(false))
    );

    let of = |n: u8| -> Vec<String> {
        let all = (0..40).map(|n| format!("t{n}"));
        all.filter(|id| bucket(&task(id)) == n).collect()
    };
    let full = (0..64).max_by_key(|n| of(*n).len()).unwrap();
    let some = get(&hub, &format!("/v1/projects/p/changes?types=task&buckets={full}")).await;
    assert_eq!(ids(&some), of(full));
    hub.stop().await;
}

#[tokio::test]
async fn checksums_are_what_the_protocol_says() {
    let hub = TestHub::start_with(|config| {
        config.roles.0.get_mut("viewer").unwrap().read = vec!["task".into()];
    })
    .await;
    let filler: Vec<_> = (1..7).map(|n| note(&n.to_string())).collect();
    write(&hub, &filler).await;
    write(&hub, &[create("c", "t1", &json!({}))]).await; // version 7
    let answer = send(&hub, "viewer", "/v1/projects/p/checksum", false).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["head"], 7);
    let buckets = answer["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 64);
    for (number, bucket) in buckets.iter().enumerate() {
        let right = match number {
            23 => json!({ "sum": "307169ef1a707486", "count": 1 }),
            _ => json!({ "sum": "0000000000000000", "count": 0 }),
        };
        assert_eq!(bucket, &right, "bucket {number}");
    }
    let editor = get(&hub, "/v1/projects/p/checksum?types=note").await;
    let count = |sum: &Value| -> u64 {
        sum["buckets"].as_array().unwrap().iter().map(|b| b["count"].as_u64().unwrap()).sum()
    };
    assert_eq!(count(&editor), 6);
    assert_eq!(count(&get(&hub, "/v1/projects/p/checksum").await), 7);
    hub.stop().await;
}

#[tokio::test]
async fn checksums_are_taken_from_what_a_user_may_ask_per_second() {
    let hub = TestHub::start_with(|config| config.limits.user_ops_per_second = 1).await;
    let mut asked = 0;
    let refused = loop {
        let answer = send(&hub, "viewer", "/v1/projects/p/checksum", false).await;
        if answer.status() != 200 {
            break answer;
        }
        asked += 1;
        assert!(asked < 100, "never too fast");
    };
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    hub.stop().await;
}

#[tokio::test]
async fn a_copy_that_lives_on_live_changes_has_the_checksum_of_a_role_that_hides_a_field() {
    let hub = TestHub::start_with(|config| {
        let viewer = config.roles.0.get_mut("viewer").unwrap();
        viewer.hidden = [("task".to_owned(), vec!["wage".to_owned()])].into();
    })
    .await;
    let mut viewer = Client::connect(&hub.ws(), &token("bo", &json!({ "p": "viewer" }))).await;
    viewer.subscribe(json!([{ "room": "project:p" }])).await;
    write(&hub, &[create("1", "t1", &json!({ "n": 1, "wage": 4_711 }))]).await;
    write(&hub, &[update("2", "t1", 1, &json!({ "wage": 4_712 }))]).await;
    let created = viewer.expect("change").await;
    assert_eq!(created["fields"], json!({ "n": 1 }));
    // No more than a delta shows: the version, and not who did it.
    assert_eq!(
        viewer.expect("change").await,
        json!({ "type": "change", "project": "p", "seq": 2, "entity": { "type": "task", "id": "t1" },
            "kind": "update", "version": 2, "prev": 1, "fields": {} })
    );
    let mut copy = Sums::default();
    copy.add(&task("t1"), Seq(2));
    let sum = send(&hub, "viewer", "/v1/projects/p/checksum", false).await;
    let sum: Value = sum.json().await.unwrap();
    assert_eq!(sum["buckets"], serde_json::to_value(copy.0.to_vec()).unwrap());
    hub.stop().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_a_problem() {
    let hub = TestHub::start().await;
    let many = (0..65).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    for (query, status) in [
        ("changes?buckets=64", 400),
        ("changes?buckets=", 400),
        ("changes?types=Task", 400),
        ("changes?types=", 400),
        ("changes?begun=x", 400),
        ("checksum?types=a,,b", 400),
        (&*format!("changes?types={many}"), 413),
    ] {
        let answer = send(&hub, "editor", &format!("/v1/projects/p/{query}"), false).await;
        assert_eq!(answer.status(), status, "{query}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let other = send(&hub, "editor", "/v1/projects/q/checksum", false).await;
    assert_eq!(other.status(), 403);
    hub.stop().await;
}

#[tokio::test]
async fn hidden_fields_stay_out_and_another_scope_begins_anew() {
    let hub = TestHub::start_with(|config| {
        let viewer = config.roles.0.get_mut("viewer").unwrap();
        viewer.hidden = [("task".to_owned(), vec!["wage".to_owned()])].into();
    })
    .await;
    let fields = json!({ "n": 1, "wage": 4_711 });
    write(&hub, &[create("1", "t1", &fields), create("2", "t2", &fields)]).await;
    let editor = get(&hub, "/v1/projects/p/changes").await;
    assert_eq!(editor["changes"][0]["fields"], fields);
    let viewer = send(&hub, "viewer", "/v1/projects/p/changes", false).await.text().await.unwrap();
    assert!(!viewer.contains("wage") && !viewer.contains("4711"), "{viewer}");
    let viewer: Value = serde_json::from_str(&viewer).unwrap();
    assert_eq!(viewer["changes"][0]["fields"], json!({ "n": 1 }));

    let (mine, theirs) = (viewer["scope"].as_str().unwrap(), editor["scope"].as_str().unwrap());
    assert_ne!(mine, theirs);
    let same = get(&hub, &format!("/v1/projects/p/changes?since=1&scope={theirs}")).await;
    assert_eq!((&same["resync"], same["changes"].as_array().unwrap().len()), (&Value::Null, 1));
    let other = get(&hub, &format!("/v1/projects/p/changes?since=1&scope={mine}")).await;
    assert_eq!(other["resync"], "scope_changed");
    assert_eq!(other["changes"].as_array().unwrap().len(), 2);
    hub.stop().await;
}

#[tokio::test]
async fn a_tombstone_tells_nothing_of_what_it_buries() {
    let hub = TestHub::start().await;
    write(&hub, &[create("1", "t1", &json!({ "word": "buried" }))]).await;
    let delete = json!({ "op_id": "d", "kind": "delete", "type": "task", "id": "t1", "base": 1 });
    write(&hub, &[delete]).await;
    for query in ["", "?types=task", "?since=1"] {
        let path = format!("/v1/projects/p/changes{query}");
        let text = send(&hub, "editor", &path, false).await.text().await.unwrap();
        assert!(text.contains("\"deleted\":true,\"fields\":{}"), "{text}");
        assert!(!text.contains("buried"), "{text}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn a_purge_sends_old_cursors_back_and_nobody_else() {
    let short = std::time::Duration::from_millis(1);
    let hub = TestHub::start_with(|config| {
        let retention = &mut config.retention;
        (retention.interval, retention.consumers) = (short * 20, short);
        (retention.log, retention.tombstones) = (short, short);
    })
    .await;
    write(&hub, &tasks(0..6)).await;
    let delete = json!({ "op_id": "d", "kind": "delete", "type": "task", "id": "t1", "base": 2 });
    write(&hub, &[delete]).await;
    let before = get(&hub, "/v1/projects/p/changes?since=5").await["epoch"].clone();
    eventually("the tombstone and the log are purged", async || {
        let purged =
            |table| hub.metric(&format!("syncline_retention_purged_total{{table=\"{table}\"}}"));
        let ran = hub.metric("syncline_retention_last_run") > 0.0;
        ran && purged("tombstones") > 0.0 && purged("changes") >= 7.0
    })
    .await;
    let old = get(&hub, "/v1/projects/p/changes?since=5").await;
    assert_eq!((&old["resync"], &old["epoch"]), (&json!("cursor_too_old"), &before));
    assert_eq!(old["changes"].as_array().unwrap().len(), 5);
    let new = get(&hub, "/v1/projects/p/changes?since=7").await;
    assert_eq!((&new["resync"], &new["next"]), (&Value::Null, &json!(7)));

    // Whoever reads everything in pages is below the floor for a while, and yet misses nothing.
    let (mut since, mut begun, mut seen) = (0, String::new(), 0);
    for page in 0..10 {
        let page_of_two = format!("/v1/projects/p/changes?since={since}&limit=2{begun}");
        let answer = get(&hub, &page_of_two).await;
        assert_eq!(answer["resync"], Value::Null, "page {page}");
        seen += answer["changes"].as_array().unwrap().len();
        if answer["more"] == false {
            break;
        }
        since = answer["next"].as_u64().unwrap();
        begun = format!("&begun={}", answer["begun"]);
    }
    assert_eq!(seen, 5);
    // The same over a socket: the log is gone too.
    let token = token("ana", &json!({ "p": "editor" }));
    let mut socket = Client::connect(&hub.ws(), &token).await;
    let rooms = socket.subscribe(json!([{ "room": "project:p", "since": 5 }])).await;
    assert_eq!(rooms[0]["resync"], "cursor_too_old");
    hub.stop().await;
}
