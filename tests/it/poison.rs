//! Poison: values that some parser, column or reader chokes on. Each operation gets a verdict of its own,
//! what is stored comes back as it was, and only broken framing costs the connection.

use serde_json::{Value, json};

use crate::support::client::{Client, End, create};
use crate::support::hub::{TestHub, token};
use crate::support::postgres::fresh_database;

async fn hub_on_sqlite() -> TestHub {
    TestHub::start().await
}

async fn hub_on_postgres() -> TestHub {
    let url = fresh_database().await;
    TestHub::start_with(|config| config.store.url = url).await
}

async fn editor(hub: &TestHub) -> Client {
    Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// The texts of fields that are unusual and good.
fn good_fields() -> Vec<String> {
    let mut fields: Vec<String> = [
        r#"{"max":9007199254740991,"min":-9007199254740991}"#,
        r#"{"n":[0.1,5e-324,1.7976931348623157e308,-0.0,1e-999,123456789.12345678901234]}"#,
        r#"{"n":[0.9333333333333333,2.2250738585072011e-308,9007199254740993.0,0.30000000000000004,1e23]}"#,
        r#"{"emoji":"\ud83d\ude80 🚀","bidi":"\u202e","feff":"\ufeff","ffff":"\uffff"}"#,
        r#"{" ":{"":1},"__proto__":{"x":1},"$1":"$1","%s":"%n","a.b[0]":null}"#,
        r#"{"sql":"'; DROP TABLE changes; --","json":"{\"a\":\"\\u0000\"}","quote":"\"'`\\"}"#,
        r#"{"twice":1,"twice":2}"#,
        r#"{"n":"NaN","m":"-Infinity","o":"1e999","p":"9007199254740993"}"#,
    ]
    .map(str::to_owned)
    .into();
    fields.push(format!(r#"{{"{}":1}}"#, "n".repeat(128)));
    fields.push(format!(r#"{{"deep":{}}}"#, nested(16)));
    fields
}

/// Operations that cannot be, and the code of their refusal.
fn bad_ops() -> Vec<(String, &'static str)> {
    let op = |fields: &str| {
        format!(r#"{{"op_id":"bad","kind":"create","type":"task","id":"bad","fields":{fields}}}"#)
    };
    let mut ops: Vec<_> = [
        op(r#"{"n":1e400}"#),
        op(r#"{"n":9007199254740993}"#),
        op(r#"{"n":[-9007199254740992]}"#),
        op(r#"{"n":18446744073709551616}"#),
        op(r#"{"nul":"a\u0000b"}"#),
        op(r#"{"\u0000":1}"#),
        op(r#"{},"notify":{"users":["bo"],"title":"a\u0000b"}"#),
        op(r#"{"half":"\ud800"}"#),
        op(r#"{"half\udc00":1}"#),
        op(&format!(r#"{{"deep":{}}}"#, nested(10_000))),
        op("[]"),
        op("null"),
        op(r#"{},"kind":"delete""#),
        op(&nested(10_000)),
        op(r#"{"":1}"#),
        op(&format!(r#"{{"{}":1}}"#, "n".repeat(1000))),
        r#"{"op_id":"bad","kind":"drop","type":"task","id":"bad"}"#.into(),
        r#"{"op_id":"bad","kind":"create","type":"Task","id":"bad"}"#.into(),
        r#"{"op_id":"bad","kind":"create","type":"task","id":"b:d"}"#.into(),
        r#"{"op_id":"bad","kind":"create","type":"task","id":"\u0000"}"#.into(),
        r#"{"op_id":"\u0000","kind":"create","type":"task","id":"bad"}"#.into(),
        r#"{"op_id":"\ud800","kind":"create","type":"task","id":"bad"}"#.into(),
        r#"{"op_id":"bad","kind":"create","type":"task","id":"bad","base":-1}"#.into(),
        r#"{"op_id":"bad","kind":"create","type":"task","id":"bad","edited_at":1e400}"#.into(),
        format!(r#"{{"op_id":{0},"id":{0}}}"#, nested(200)),
        format!(r#"{{"op_id":"{}"}}"#, "o".repeat(100_000)),
        nested(10_000),
        "null".into(),
        "1e400".into(),
        r#""op""#.into(),
    ]
    .into_iter()
    .map(|op| (op, "bad_request"))
    .collect();
    ops.push((op(&format!(r#"{{"long":"{}"}}"#, "x".repeat(300_000))), "limit_exceeded"));
    ops.push((op(&format!(r#"{{"text":"{}"}}"#, "x".repeat(70_000))), "limit_exceeded"));
    ops.push((op(&format!(r#"{{"deep":{}}}"#, nested(17))), "limit_exceeded"));
    let many: Vec<_> = (0..257).map(|n| format!(r#""f{n}":1"#)).collect();
    ops.push((op(&format!("{{{}}}", many.join(","))), "limit_exceeded"));
    ops
}

const STRANGE_IDS: [&str; 7] = [
    "'; DROP TABLE entities; --",
    "x' OR '1'='1",
    "$1",
    "%s%n",
    "../../etc/passwd",
    "{\\\"a\\\"}",
    "\\ud83d\\ude80\\u202e",
];

async fn one_poisoned_operation_spoils_no_other(hub: TestHub) {
    let mut client = editor(&hub).await;
    let fields = good_fields();
    let ids = (0..fields.len()).map(|n| format!("t{n}"));
    let named: Vec<_> = ids
        .zip(fields)
        .chain(STRANGE_IDS.map(|id| (id.to_owned(), r#"{"n":1}"#.to_owned())))
        .enumerate()
        .map(|(n, (id, fields))| {
            let notify = r#"{"users":["bo"],"title":"a\u0001b","body":"\u007f","link":"\u0001","data":{"\u0001":"\u0001"}}"#;
            let op = format!(
                r#"{{"op_id":"o{n}","kind":"create","type":"task","id":"{id}","fields":{fields},"notify":{notify}}}"#
            );
            (op, None)
        })
        .collect();
    let mut ops = Vec::new();
    let (mut good, mut bad) = (named.into_iter(), bad_ops().into_iter());
    loop {
        let pair = (good.next(), bad.next().map(|(op, code)| (op, Some(code))));
        if pair.0.is_none() && pair.1.is_none() {
            break;
        }
        ops.extend(pair.0);
        ops.extend(pair.1);
    }
    let texts: Vec<&str> = ops.iter().map(|(text, _)| text.as_str()).collect();
    let write = |texts: &[&str]| {
        format!(r#"{{"type":"write","id":"w","project":"p","ops":[{}]}}"#, texts.join(","))
    };
    client.send_text(&write(&texts)).await;
    let answer = client.expect("written").await;
    let verdicts = answer["verdicts"].as_array().unwrap();
    assert_eq!(verdicts.len(), ops.len());

    let mut applied = Vec::new();
    for ((text, code), verdict) in ops.iter().zip(verdicts) {
        let start: String = text.chars().take(200).collect();
        match code {
            Some(code) => {
                assert_eq!(verdict["outcome"], "rejected", "{start}: {verdict}");
                assert_eq!(verdict["code"], *code, "{start}: {verdict}");
            }
            None => {
                assert_eq!(verdict["outcome"], "applied", "{start}: {verdict}");
                applied.push(serde_json::from_str::<Value>(text).unwrap());
                assert_eq!(verdict["seq"], applied.len(), "the log is dense");
            }
        }
    }
    comes_back_as_it_was(&hub, &mut client, &applied).await;

    // A retry finds the same verdicts.
    client.send_text(&write(&texts)).await;
    assert_eq!(client.expect("written").await, answer);
    hub.stop().await;
}

/// From the log, and from the entities.
async fn comes_back_as_it_was(hub: &TestHub, client: &mut Client, applied: &[Value]) {
    client.subscribe(json!([{ "room": "project:p", "since": 0 }])).await;
    for op in applied {
        let change = client.expect("change").await;
        assert_eq!((&change["entity"]["id"], &change["fields"]), (&op["id"], &op["fields"]));
    }
    let read = reqwest::Client::new().get(hub.http("/v1/projects/p/changes?since=0"));
    let read = read.bearer_auth(token("ana", &json!({ "p": "editor" }))).send().await.unwrap();
    let read: Value = read.json().await.unwrap();
    let rows = read["changes"].as_array().unwrap();
    assert_eq!(rows.len(), applied.len());
    for (row, op) in rows.iter().zip(applied) {
        assert_eq!((&row["entity"]["id"], &row["fields"]), (&op["id"], &op["fields"]));
    }
}

async fn a_poisoned_frame_is_refused_and_the_connection_lives(hub: TestHub) {
    let mut client = editor(&hub).await;
    let mut other = Client::connect(&hub.ws(), &token("bo", &json!({ "p": "editor" }))).await;
    for client in [&mut client, &mut other] {
        client.subscribe(json!([{ "room": "room:p:x", "presence": true }])).await;
    }
    other.settle().await;
    let broadcast = |data: &str| {
        format!(r#"{{"id":"f","type":"broadcast","room":"room:p:x","event":"e","data":{data}}}"#)
    };
    let presence = |state: &str| {
        format!(r#"{{"id":"f","type":"presence","room":"room:p:x","state":{state}}}"#)
    };
    for text in [
        String::new(),
        "{".into(),
        "\0".into(),
        "{\"type\":\"ping\u{1}\"}".into(),
        nested(10_000),
        "[".repeat(100_000),
        format!(r#"{{"type":{}}}"#, nested(10_000)),
        r#"{"type":"ping","type":"ping"}"#.into(),
        r#"{"type":"\ud800"}"#.into(),
        r#"{"type":"dance"}"#.into(),
        r#"{"type":"ping","id":1e400}"#.into(),
        r#"{"type":"ping","id":18446744073709551616}"#.into(),
        format!(r#"{{"type":"ping","id":"{}"}}"#, "i".repeat(65)),
        format!(r#"{{"type":"ack","seq":"{}"}}"#, "s".repeat(500_000)),
        r#"{"type":"ack","project":"p","project":"p","seq":1}"#.into(),
        r#"{"type":"write","project":"'; --","ops":[]}"#.into(),
        r#"{"type":"write","project":"p","ops":{}}"#.into(),
        broadcast(r#""\ud800""#),
        broadcast("1e400"),
        broadcast("NaN"),
        broadcast("-Infinity"),
        r#"{"type":"write","project":"p","ops":[{"op_id":"1","fields":{"n":NaN}}]}"#.into(),
        broadcast(&nested(10_000)),
        presence("[18446744073709551616]"),
        presence(&nested(100)),
    ] {
        client.send_text(&text).await;
        let error = client.expect("error").await;
        let code = error["code"].as_str().unwrap();
        let start: String = text.chars().take(100).collect();
        assert!(["bad_request", "unknown_type"].contains(&code), "{start}: {error}");
        assert!(error.to_string().len() < 1000, "{start}: {} bytes", error.to_string().len());
    }
    assert!(client.settle().await.iter().all(|frame| frame["type"] == "presence"));
    let poisoned = |frame: &Value| frame["type"] == "event" || frame.get("updated").is_some();
    assert!(!other.settle().await.iter().any(poisoned), "others heard of it");
    hub.stop().await;
}

async fn only_broken_framing_costs_the_connection(hub: TestHub) {
    for (bytes, code) in [
        (b"{\"type\":\"ping\",\"id\":\"\xff\"}".to_vec(), 4400),
        (b"\xed\xa0\x80".to_vec(), 4400),
        (vec![b'x'; 10_000_000], 4413),
    ] {
        let mut client = editor(&hub).await;
        client.send_bytes(bytes).await;
        assert_eq!(client.end().await.1, End::Closed(code));
    }
    let mut client = editor(&hub).await;
    assert_eq!(client.settle().await, [] as [Value; 0], "the hub lives");
    hub.stop().await;
}

#[tokio::test]
async fn ten_megabytes_in_a_frame_that_is_allowed_are_too_much_for_one_operation() {
    let hub = TestHub::start_with(|config| config.limits.frame_bytes = 16 << 20).await;
    let mut client = editor(&hub).await;
    let long = create("long", "t1", &json!({ "x": "x".repeat(10_000_000) }));
    let verdicts = client.write("p", json!([long, create("2", "t2", &json!({}))])).await;
    assert_eq!(verdicts[0]["code"], "limit_exceeded");
    assert_eq!((&verdicts[1]["outcome"], &verdicts[1]["seq"]), (&json!("applied"), &json!(1)));
    hub.stop().await;
}

macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::hub_on_sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::hub_on_postgres().await).await;
            })+
        }
    };
}

on_both_engines!(
    one_poisoned_operation_spoils_no_other,
    a_poisoned_frame_is_refused_and_the_connection_lives,
    only_broken_framing_costs_the_connection,
);
