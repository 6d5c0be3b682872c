//! Writes as clients make them, over sockets and HTTP, on one hub with SQLite and on two with PostgreSQL:
//! checksums, groups, priorities, local ids, clocks, limits, and in `conflicts` what becomes of those.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use syncline::config::Config;

use crate::support::client::Client;
use crate::support::hub::{ADMIN_TOKEN, token};
use crate::support::schema::{Hubs, op};

/// Makes each named test, an `async fn(Hubs)`, a test on both engines.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Hubs::sqlite(super::small).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Hubs::postgres(super::small).await).await;
            })+
        }
    };
}

mod conflicts;

on_both_engines!(
    the_verdict_is_the_same_whichever_way_and_wherever,
    what_was_damaged_on_its_way_is_not_applied,
    a_group_takes_effect_together_or_not_at_all,
    a_group_that_is_torn_or_too_large_may_come_again,
    an_urgent_operation_goes_first_but_not_before_its_own_entity,
    connections_without_a_name_are_strangers_to_each_other,
    a_local_id_is_known_after_a_reconnect_and_everywhere,
    a_wrong_clock_is_corrected_by_sent_at,
    every_limit_is_named,
);

/// Limits one can meet with little.
fn small(config: &mut Config) {
    let limits = &mut config.limits;
    (limits.ops_per_write, limits.ops_per_group, limits.op_fields) = (20, 3, 5);
    (limits.op_bytes, limits.op_string_bytes, limits.op_depth) = (2000, 500, 3);
    (limits.entity_bytes, limits.body_bytes) = (900, 64 << 10);
    config.auth.admin_token = ADMIN_TOKEN.into();
}

fn outcomes(verdicts: &[Value]) -> Vec<&str> {
    verdicts.iter().map(|verdict| verdict["outcome"].as_str().unwrap()).collect()
}

fn codes(verdicts: &[Value]) -> Vec<&Value> {
    verdicts.iter().map(|verdict| &verdict["code"]).collect()
}

fn sealed(op: &Value) -> String {
    let text = op.to_string();
    let checksum = hex::encode(Sha256::digest(&text));
    format!("{},\"checksum\":\"{checksum}\"}}", text.strip_suffix('}').unwrap())
}

/// The fields of an entity, over HTTP.
async fn fields(hubs: &Hubs, kind: &str, id: &str) -> Value {
    let (_, entity) = hubs.get(1, "ana", &format!("/v1/projects/p/entities/{kind}/{id}")).await;
    entity["fields"].clone()
}

async fn the_verdict_is_the_same_whichever_way_and_wherever(hubs: Hubs) {
    let task = ("task", "t1");
    hubs.write(
        0,
        "bo",
        "desk",
        &[
            op(
                "b1",
                "create",
                task,
                &json!({ "fields": { "title": "one", "hours": 5, "approval": 0 } }),
            ),
            op(
                "b2",
                "update",
                task,
                &json!({ "base": 1, "fields": { "title": "two", "hours": 7, "approval": 1 } }),
            ),
        ],
    )
    .await;
    let mine = |id: &str, fields: Value, was: Value| {
        op(id, "update", task, &json!({ "base": 1, "fields": fields, "was": was }))
    };
    let ops = [
        op("applied", "create", ("task", "local:a"), &json!({ "fields": { "title": "new" } })),
        mine("merged", json!({ "hours": 6 }), json!({ "hours": 5 })),
        mine("noop", json!({ "title": "two" }), json!({ "title": "one" })),
        mine("superseded", json!({ "title": "three" }), json!({ "title": "one" })),
        mine("conflict", json!({ "approval": 2 }), json!({ "approval": 0 })),
        op("rejected", "update", ("task", "none"), &json!({ "fields": { "a": 1 } })),
    ];
    let mut phone = hubs.device(0, "ana", "phone").await;
    let verdicts = phone.write("p", json!(ops)).await;
    let names: Vec<_> = ops.iter().map(|op| op["op_id"].as_str().unwrap()).collect();
    assert_eq!(outcomes(&verdicts), names);
    assert_eq!(verdicts[1]["fields"], json!({ "hours": 8 }));
    // Text against text: once and for all, whichever way and wherever.
    let ask = json!({ "type": "write", "id": "again", "project": "p", "ops": ops });
    let mut elsewhere = hubs.device(1, "ana", "phone").await;
    let mut texts = Vec::new();
    for socket in [&mut phone, &mut elsewhere] {
        socket.send(&ask).await;
        let text = loop {
            let text = socket.read_text().await.unwrap();
            if text.contains("\"written\"") {
                break text;
            }
        };
        texts.push(text[text.find("\"verdicts\"").unwrap()..].trim_end_matches('}').to_owned());
    }
    assert_eq!(texts[0], texts[1]);
    for number in 0..2 {
        assert_eq!(hubs.write(number, "ana", "phone", &ops).await, verdicts);
    }
    // And what another user's operation of that name gets is a refusal.
    let theirs = hubs.write(1, "bo", "desk", &ops).await;
    assert!(codes(&theirs).iter().all(|code| **code == "op_id_reused"), "{theirs:?}");
    hubs.stop().await;
}

async fn what_was_damaged_on_its_way_is_not_applied(hubs: Hubs) {
    let create = |id: &str| op(id, "create", ("task", id), &json!({ "fields": { "title": "x" } }));
    let damaged = sealed(&create("b")).replace("\"x\"", "\"y\"");
    let ops = format!("[{},{damaged}]", sealed(&create("a")));
    let mut phone = hubs.device(0, "ana", "phone").await;
    let frame = |id: u64, ops: &str, more: &str| {
        format!(r#"{{"type":"write","id":{id},"project":"p","ops":{ops}{more}}}"#)
    };
    phone.send_text(&frame(901, &ops, "")).await;
    let written = phone.expect("written").await;
    assert_eq!(written["verdicts"][0]["outcome"], "applied");
    assert_eq!(written["verdicts"][1]["code"], "checksum_mismatch");
    let body = format!(r#"{{"client":"phone","ops":{ops}}}"#);
    let (_, over_http) = hubs.post(1, "ana", "/v1/projects/p/ops", body).await;
    assert_eq!(over_http["verdicts"], written["verdicts"]);
    // It is not kept: undamaged, the same operation goes through.
    let whole = format!("[{}]", sealed(&create("b")));
    let sum = hex::encode(Sha256::digest(&whole));
    let checksum = |sum: &str| format!(r#","checksum":"{sum}""#);
    phone.send_text(&frame(902, &whole, &checksum(&sum.replace(['a', '1'], "0")))).await;
    assert_eq!(phone.expect("error").await["code"], "checksum_mismatch");
    let wrong = format!(r#"{{"client":"phone","ops":{whole}{}}}"#, checksum(&"0".repeat(64)));
    let (status, problem) = hubs.post(0, "ana", "/v1/projects/p/ops", wrong).await;
    assert_eq!((status / 100, &problem["code"]), (4, &json!("checksum_mismatch")));
    phone.send_text(&frame(903, &whole, &checksum(&sum))).await;
    assert_eq!(phone.expect("written").await["verdicts"][0]["seq"], 2);
    hubs.stop().await;
}

async fn a_group_takes_effect_together_or_not_at_all(hubs: Hubs) {
    let create = |id: &str, group: &str| {
        op(id, "create", ("task", id), &json!({ "group": group, "fields": { "title": id } }))
    };
    let dead =
        op("dead", "update", ("task", "none"), &json!({ "group": "g", "fields": { "a": 1 } }));
    let ops = [create("a", "g"), dead, create("b", "g"), create("c", "h"), create("d", "h")];
    let verdicts = hubs.write(0, "ana", "phone", &ops).await;
    assert_eq!(
        outcomes(&verdicts),
        ["rejected", "rejected", "rejected", "applied", "applied"],
        "{verdicts:?}"
    );
    let failed = json!("group_failed");
    assert_eq!(codes(&verdicts)[..3], [&failed, &json!("not_found"), &failed]);
    assert_eq!(hubs.write(1, "ana", "phone", &ops).await, verdicts);
    assert_eq!(verdicts[4]["seq"], 2, "nothing of the first group is in the log");
    assert_eq!(fields(&hubs, "task", "a").await, Value::Null);
    hubs.stop().await;
}

async fn a_group_that_is_torn_or_too_large_may_come_again(hubs: Hubs) {
    let create = |id: &str, group: &str| op(id, "create", ("task", id), &json!({ "group": group }));
    let mut phone = hubs.device(1, "ana", "phone").await;
    let torn = [create("a", "g"), create("b", "h"), create("c", "g")];
    let verdicts = phone.write("p", json!(torn)).await;
    assert_eq!(outcomes(&verdicts), ["rejected", "applied", "rejected"]);
    assert_eq!(codes(&verdicts)[..1], codes(&verdicts)[2..]);
    assert_eq!(verdicts[0]["code"], "group_split", "nothing of it took effect");
    let large: Vec<_> = ["d", "e", "f", "i"].map(|id| create(id, "g")).into();
    let refused = phone.write("p", json!(large)).await;
    assert!(refused.iter().all(|v| v["message"].as_str().unwrap().contains("ops_per_group")));
    let broken = [create("d", "g"), json!({ "op_id": "e", "group": "g" })];
    assert_eq!(phone.write("p", json!(broken)).await[0]["code"], "group_failed");
    // None of these refusals is kept.
    let whole = [create("a", "g"), create("c", "g"), create("d", "g")];
    assert_eq!(outcomes(&phone.write("p", json!(whole)).await), ["applied"; 3]);
    hubs.stop().await;
}

async fn an_urgent_operation_goes_first_but_not_before_its_own_entity(hubs: Hubs) {
    let ops = [
        op("plain", "create", ("task", "a"), &json!({ "fields": { "title": "a" } })),
        op("made", "create", ("task", "b"), &json!({ "fields": { "title": "b" } })),
        op("sos", "create", ("task", "c"), &json!({ "priority": "high" })),
        op(
            "later",
            "update",
            ("task", "b"),
            &json!({ "priority": "critical", "fields": { "title": "B" } }),
        ),
    ];
    let mut phone = hubs.device(0, "ana", "phone").await;
    let verdicts = phone.write("p", json!(ops)).await;
    assert_eq!(outcomes(&verdicts), ["applied"; 4], "the answers keep their places");
    let seqs: Vec<_> = verdicts.iter().map(|v| v["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [4, 1, 3, 2]);
    assert_eq!(fields(&hubs, "task", "b").await, json!({ "title": "B" }));
    hubs.stop().await;
}

async fn connections_without_a_name_are_strangers_to_each_other(hubs: Hubs) {
    let ana = token("ana", &json!({ "p": "editor" }));
    // The first connection of each instance.
    let mut here = Client::connect(&hubs.hub(0).ws(), &ana).await;
    let mut there = Client::connect(&hubs.hub(1).ws(), &ana).await;
    let edit = |op_id: &str, kind: &str, text: &str| {
        op(op_id, kind, ("note", "n1"), &json!({ "base": 0, "fields": { "text": text } }))
    };
    here.write("p", json!([edit("1", "create", "here")])).await;
    let verdicts = there.write("p", json!([edit("2", "update", "there")])).await;
    assert!(verdicts[0]["conflict"].is_string(), "nobody's own edit: {verdicts:?}");
    let local = |op_id: &str, kind: &str| op(op_id, kind, ("note", "local:1"), &json!({}));
    here.write("p", json!([local("3", "create")])).await;
    let verdicts = there.write("p", json!([local("4", "update")])).await;
    assert_eq!(codes(&verdicts), ["unknown_local_id"]);
    hubs.stop().await;
}

async fn a_local_id_is_known_after_a_reconnect_and_everywhere(hubs: Hubs) {
    let mut phone = hubs.device(0, "ana", "phone").await;
    let create =
        op("1", "create", ("task", "local:roof"), &json!({ "fields": { "title": "roof" } }));
    let made = phone.write("p", json!([create])).await.remove(0);
    assert_eq!(made["local_id"], "local:roof");
    let id = made["id"].as_str().unwrap().to_owned();
    phone.close().await;
    let mut phone = hubs.device(1, "ana", "phone").await;
    let local = |op_id: &str, more: &Value| op(op_id, "update", ("task", "local:roof"), more);
    let child = json!({ "fields": { "parent": "local:roof" } });
    let verdicts = phone
        .write(
            "p",
            json!([
                local("2", &json!({ "base": 1, "fields": { "title": "west" } })),
                op("3", "create", ("task", "child"), &child)
            ]),
        )
        .await;
    assert_eq!(outcomes(&verdicts), ["applied", "applied"]);
    assert_eq!(verdicts[0]["id"], id);
    assert_eq!(fields(&hubs, "task", &id).await, json!({ "title": "west" }));
    assert_eq!(fields(&hubs, "task", "child").await, json!({ "parent": id }));
    // The name is this user's on this installation, and nobody else's.
    for (user, client) in [("ana", "tablet"), ("bo", "phone")] {
        let theirs = local(&format!("of-{user}"), &json!({ "fields": { "title": "x" } }));
        let verdict = hubs.write(0, user, client, &[theirs]).await.remove(0);
        assert_eq!(verdict["code"], "unknown_local_id", "{user} on {client}");
    }
    hubs.stop().await;
}

async fn a_wrong_clock_is_corrected_by_sent_at(hubs: Hubs) {
    let note = ("note", "n1");
    hubs.write(0, "ana", "phone", &[op("1", "create", note, &json!({ "fields": { "text": "" } }))])
        .await;
    let now = syncline::clock::now_ms();
    let edit = |op_id: &str, text: &str, at: i64| {
        op(
            op_id,
            "update",
            note,
            &json!({ "base": 1, "fields": { "text": text }, "edited_at": at }),
        )
    };
    let mut desk = hubs.device(0, "bo", "desk").await;
    assert_eq!(
        desk.write("p", json!([edit("2", "bo's", now - 10_000)])).await[0]["outcome"],
        "applied"
    );
    // Ana's clock is an hour behind: her edit, five seconds old, looks older than Bo's.
    let behind = 3_600_000;
    let body = |op_id: &str, sent_at: Option<i64>| {
        let ops = [edit(op_id, op_id, now - 5_000 - behind)];
        json!({ "client": "phone", "ops": ops, "sent_at": sent_at })
    };
    let (_, without) =
        hubs.post(1, "ana", "/v1/projects/p/ops", body("late", None).to_string()).await;
    assert_eq!(without["verdicts"][0]["outcome"], "superseded", "{without}");
    let told = body("right", Some(now - behind)).to_string();
    let (_, with) = hubs.post(1, "ana", "/v1/projects/p/ops", told).await;
    assert_eq!(with["verdicts"][0]["outcome"], "applied", "{with}");
    assert_eq!(fields(&hubs, "note", "n1").await, json!({ "text": "right" }));
    hubs.stop().await;
}

async fn every_limit_is_named(hubs: Hubs) {
    let create =
        |id: &str, fields: Value| op(id, "create", ("task", id), &json!({ "fields": fields }));
    let text = |bytes: usize| "x".repeat(bytes);
    let cases = [
        ("op_bytes", create("bytes", json!({ "a": vec![text(400); 6] }))),
        ("op_fields", create("fields", json!({ "a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1 }))),
        ("op_depth", create("depth", json!({ "a": [[[[1]]]] }))),
        ("op_string_bytes", create("string", json!({ "a": text(501) }))),
        ("entity_bytes", create("entity", json!({ "a": text(450), "b": text(450) }))),
    ];
    let mut phone = hubs.device(0, "ana", "phone").await;
    for (limit, op) in cases {
        let verdict = phone.write("p", json!([op])).await.remove(0);
        assert_eq!(verdict["code"], "limit_exceeded", "{limit}: {verdict}");
        let named = verdict["message"].as_str().unwrap();
        assert!(named.contains(&format!("`{limit}`")), "{limit}: {verdict}");
        assert_eq!(hubs.write(1, "ana", "phone", &[op]).await[0], verdict, "{limit} over HTTP");
    }
    let many: Vec<_> = (0..21).map(|n| create(&n.to_string(), json!({}))).collect();
    let refused = phone.ask(json!({ "type": "write", "project": "p", "ops": many })).await;
    assert_eq!(refused["detail"], json!({ "limit": "ops_per_write", "value": 20 }));
    let body = json!({ "ops": many }).to_string();
    let (status, problem) = hubs.post(1, "ana", "/v1/projects/p/ops", body).await;
    assert_eq!((status, &problem["extra"]["limit"]), (413, &json!("ops_per_write")));
    hubs.stop().await;
}
