//! Writes as clients make them, over sockets and HTTP, on one hub with SQLite and on two with PostgreSQL:
//! checksums, groups, priorities, conflicts and their resolution, local ids, clocks, limits.

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

on_both_engines!(
    the_verdict_is_the_same_whichever_way_and_wherever,
    what_was_damaged_on_its_way_is_not_applied,
    a_group_takes_effect_together_or_not_at_all,
    a_group_that_is_torn_or_too_large_may_come_again,
    an_urgent_operation_goes_first_but_not_before_its_own_entity,
    a_conflict_is_shown_on_every_device_and_resolved_once,
    a_decision_on_what_has_moved_is_asked_for_again,
    conflicts_are_listed_by_filter_and_page,
    a_field_is_explained,
    connections_without_a_name_are_strangers_to_each_other,
    a_local_id_is_known_after_a_reconnect_and_everywhere,
    a_wrong_clock_is_corrected_by_sent_at,
    a_backend_overrules_what_waits_for_its_user,
    every_limit_is_named,
);

/// Limits one can meet with little.
fn small(config: &mut Config) {
    let limits = &mut config.limits;
    (limits.ops_per_write, limits.ops_per_group, limits.op_fields) = (20, 3, 5);
    (limits.op_bytes, limits.op_string_bytes, limits.op_depth) = (2000, 500, 3);
    limits.entity_bytes = 900;
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

/// Ana's phone creates a form and Bo changes it; Ana's edit of the version before is parked.
async fn parked(hubs: &Hubs, id: &str) -> (Value, u64) {
    let of = ("form", id);
    let name = |step: &str| format!("{id}-{step}");
    let create =
        op(&name("create"), "create", of, &json!({ "fields": { "title": "one", "n": 1 } }));
    let created = hubs.write(0, "ana", "phone", &[create]).await.remove(0);
    let base = created["version"].as_u64().unwrap();
    let edit = json!({ "base": base, "fields": { "title": "bo's" } });
    let edited = hubs.write(1, "bo", "desk", &[op(&name("edit"), "update", of, &edit)]).await;
    let late = json!({ "base": base, "fields": { "title": "ana's", "n": 2 } });
    let late = op(&name("late"), "update", of, &late);
    let verdict = hubs.write(0, "ana", "phone", &[late]).await.remove(0);
    assert_eq!((&verdict["outcome"], &verdict["code"]), (&json!("conflict"), &json!("fields")));
    assert_eq!(verdict["current"]["fields"], json!({ "title": "bo's", "n": 1 }));
    (verdict["conflict"].clone(), edited[0]["version"].as_u64().unwrap())
}

fn resolve(op_id: &str, id: &str, conflict: &Value, version: u64, choice: &Value) -> Value {
    let mut op = op(op_id, "resolve", ("form", id), choice);
    op["conflict"] = conflict.clone();
    op["expected_version"] = json!(version);
    op
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
    assert_eq!(outcomes(&verdicts), ["applied", "applied", "rejected"]);
    assert_eq!(verdicts[2]["code"], "group_split");
    let large: Vec<_> = ["d", "e", "f", "i"].map(|id| create(id, "g")).into();
    let refused = phone.write("p", json!(large)).await;
    assert!(refused.iter().all(|v| v["message"].as_str().unwrap().contains("ops_per_group")));
    let broken = [create("d", "g"), json!({ "op_id": "e", "group": "g" })];
    assert_eq!(phone.write("p", json!(broken)).await[0]["code"], "group_failed");
    // None of these refusals is kept.
    let verdicts = phone.write("p", json!([create("c", "g"), create("d", "g")])).await;
    assert_eq!(outcomes(&verdicts), ["applied", "applied"]);
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

/// The next `conflict` frame about a conflict.
async fn frame(device: &mut Client, conflict: &Value, state: &str) -> Value {
    let fits = |frame: &Value| {
        frame["type"] == "conflict"
            && frame["conflict"]["id"] == *conflict
            && frame["conflict"]["state"] == state
    };
    device.find(&format!("a conflict that is {state}"), fits).await["conflict"].clone()
}

async fn a_conflict_is_shown_on_every_device_and_resolved_once(hubs: Hubs) {
    let mut devices = [hubs.device(0, "ana", "phone").await, hubs.device(1, "ana", "tablet").await];
    let mut stranger = hubs.device(1, "bo", "desk").await;
    let (conflict, version) = parked(&hubs, "f1").await;
    for device in &mut devices {
        let shown = frame(device, &conflict, "open").await;
        assert_eq!(shown["server_version"], version);
        assert_eq!(shown["entity"], json!({ "type": "form", "id": "f1" }));
        let title = shown["fields"].as_array().unwrap().iter().find(|f| f["name"] == "title");
        let title = title.unwrap();
        assert_eq!((&title["client"], &title["server"]), (&json!("ana's"), &json!("bo's")));
        assert_eq!(title["conflict"], true);
    }
    let decide = |op_id: &str| {
        resolve(op_id, "f1", &conflict, version, &json!({ "choose": { "title": "client" } }))
    };
    let theirs = hubs.write(0, "bo", "desk", &[decide("theirs")]).await;
    assert_eq!(theirs[0]["code"], "not_found", "a conflict is its user's");
    // On the other device, and on the other hub, than the operation came from.
    let decided = devices[1].write("p", json!([decide("decided")])).await.remove(0);
    assert_eq!(decided["outcome"], "applied", "{decided}");
    for device in &mut devices {
        let shown = frame(device, &conflict, "resolved").await;
        assert_eq!(shown["resolved_by"], "decided");
    }
    assert_eq!(fields(&hubs, "form", "f1").await, json!({ "title": "ana's", "n": 1 }));
    let again = hubs.write(0, "ana", "phone", &[decide("again"), decide("decided")]).await;
    assert_eq!((&again[0]["code"], &again[1]), (&json!("not_open"), &decided));
    assert!(stranger.settle().await.iter().all(|frame| frame["type"] != "conflict"));
    hubs.stop().await;
}

async fn a_decision_on_what_has_moved_is_asked_for_again(hubs: Hubs) {
    let mut tablet = hubs.device(1, "ana", "tablet").await;
    let (conflict, version) = parked(&hubs, "f1").await;
    let third = json!({ "base": version, "fields": { "title": "bo again" } });
    let moved = hubs.write(0, "bo", "desk", &[op("third", "update", ("form", "f1"), &third)]).await;
    let now = moved[0]["version"].as_u64().unwrap();
    let stale = resolve("stale", "f1", &conflict, version, &json!({ "choose": "client" }));
    let verdict = hubs.write(0, "ana", "phone", &[stale]).await.remove(0);
    assert_eq!((&verdict["outcome"], &verdict["code"]), (&json!("conflict"), &json!("moved")));
    assert_eq!(verdict["current"]["fields"]["title"], "bo again");
    let fresh =
        tablet.find("the conflict as it is now", |f| f["conflict"]["server_version"] == now).await;
    assert_eq!(fresh["conflict"]["state"], "open");
    let own = json!({ "choose": "server", "fields": { "title": "both" } });
    let verdict =
        hubs.write(1, "ana", "tablet", &[resolve("own", "f1", &conflict, now, &own)]).await;
    assert_eq!(verdict[0]["outcome"], "applied");
    assert_eq!(fields(&hubs, "form", "f1").await, json!({ "title": "both", "n": 1 }));
    hubs.stop().await;
}

async fn conflicts_are_listed_by_filter_and_page(hubs: Hubs) {
    let mut made = Vec::new();
    for id in ["f1", "f2", "f3"] {
        made.push(parked(&hubs, id).await);
    }
    let (first, version) = &made[0];
    let close = resolve("close", "f1", first, *version, &json!({ "choose": "server" }));
    assert_eq!(hubs.write(0, "ana", "phone", &[close]).await[0]["outcome"], "noop");
    let list = async |number, user: &str, query: &str| {
        let (status, page) =
            hubs.get(number, user, &format!("/v1/projects/p/conflicts?{query}")).await;
        assert_eq!(status, 200, "{page}");
        let ids = page["conflicts"].as_array().unwrap().iter().map(|c| c["id"].clone()).collect();
        (ids, page)
    };
    let ids: Vec<Value> = made.iter().rev().map(|(id, _)| id.clone()).collect();
    assert_eq!(list(0, "ana", "").await.0, ids);
    assert_eq!(list(1, "bo", "").await.0, [] as [Value; 0]);
    assert_eq!(list(0, "ana", "state=open").await.0, ids[..2]);
    assert_eq!(list(1, "ana", "state=resolved").await.0, ids[2..]);
    assert_eq!(list(0, "ana", "outcome=conflict").await.0, ids[..2]);
    assert_eq!(list(0, "ana", "outcome=noop").await.0, ids[2..]);
    assert_eq!(list(0, "ana", "type=form&id=f2").await.0, ids[1..2]);
    assert_eq!(list(0, "ana", "type=task").await.0, [] as [Value; 0]);
    let mut walked = Vec::new();
    let mut query = "limit=1".to_owned();
    loop {
        let (ids, page) = list(1, "ana", &query).await;
        walked.extend::<Vec<Value>>(ids);
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=1&before={next}");
    }
    assert_eq!(walked, ids);
    // An open one shows the server's side as it is now, not as it was.
    let later = json!({ "base": made[2].1, "fields": { "title": "later" } });
    let moved = hubs.write(0, "bo", "desk", &[op("later", "update", ("form", "f3"), &later)]).await;
    let (_, page) = list(1, "ana", "id=f3&type=form").await;
    let shown = &page["conflicts"][0];
    assert_eq!(shown["server_version"], moved[0]["version"]);
    let title = shown["fields"].as_array().unwrap().iter().find(|f| f["name"] == "title").unwrap();
    assert_eq!((&title["server"], &title["client"]), (&json!("later"), &json!("ana's")));
    let url = hubs.hub(1).http("/v1/admin/projects/p/conflicts?user=ana&state=open");
    let all = reqwest::Client::new().get(url).bearer_auth(ADMIN_TOKEN).send().await.unwrap();
    assert_eq!(all.json::<Value>().await.unwrap()["conflicts"].as_array().unwrap().len(), 2);
    hubs.stop().await;
}

async fn a_field_is_explained(hubs: Hubs) {
    let task = ("task", "t1");
    let create = op("b1", "create", task, &json!({ "fields": { "title": "one", "n": 1 } }));
    let edit = op("b2", "update", task, &json!({ "base": 1, "fields": { "title": "two" } }));
    hubs.write(0, "bo", "desk", &[create, edit]).await;
    let late = op("a1", "update", task, &json!({ "base": 1, "fields": { "title": "three" } }));
    let lost = hubs.write(0, "ana", "phone", &[late]).await.remove(0);
    let path = "/v1/projects/p/entities/task/t1/explain";
    let (status, story) = hubs.get(1, "ana", &format!("{path}?field=title")).await;
    assert_eq!((status, story["fields"].as_array().unwrap().len()), (200, 1), "{story}");
    let title = &story["fields"][0];
    assert_eq!((&title["field"], &title["value"]), (&json!("title"), &json!("two")));
    let set = &title["set"];
    assert_eq!((&set["seq"], &set["user"], &set["op_id"]), (&json!(2), &json!("bo"), &json!("b2")));
    assert_eq!(set["base"], 1);
    let met = &title["conflicts"][0];
    assert_eq!((&met["id"], &met["op_id"]), (&lost["conflict"], &json!("a1")));
    // An installation is named to its own user alone.
    assert_eq!((&set["client"], &met["client"]), (&Value::Null, &json!("phone")));
    let (_, bos) = hubs.get(1, "bo", &format!("{path}?field=title")).await;
    let title = &bos["fields"][0];
    assert_eq!(
        (&title["set"]["client"], &title["conflicts"][0]["client"]),
        (&json!("desk"), &json!(""))
    );
    let (_, all) = hubs.get(0, "ana", path).await;
    let names: Vec<_> = all["fields"].as_array().unwrap().iter().map(|f| &f["field"]).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(hubs.get(0, "ana", &format!("{path}?field=none")).await.0, 404);
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

async fn a_backend_overrules_what_waits_for_its_user(hubs: Hubs) {
    let (conflict, _) = parked(&hubs, "f1").await;
    let event = json!({
        "id": "e1", "project": "p", "kind": "upsert", "entity": { "type": "form", "id": "f1" },
        "fields": { "title": "erp's" }, "source": "erp",
    });
    let url = hubs.hub(1).http("/v1/publish");
    let request = reqwest::Client::new().post(url).bearer_auth(ADMIN_TOKEN).body(event.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let (_, page) = hubs.get(0, "ana", "/v1/projects/p/conflicts").await;
    let entries = page["conflicts"].as_array().unwrap();
    let overruled = entries.iter().find(|entry| entry["kind"] == "overruled").expect("a trace");
    assert_eq!(overruled["op_id"], "f1-late");
    assert_eq!(overruled["fields"][0]["server"], "erp's");
    let open = entries.iter().find(|entry| entry["id"] == conflict).unwrap();
    assert_eq!(open["state"], "open", "its user can still decide, on what is there now");
    let version = open["server_version"].as_u64().unwrap();
    let decide = resolve("late", "f1", &conflict, version, &json!({ "choose": "client" }));
    assert_eq!(hubs.write(1, "ana", "phone", &[decide]).await[0]["outcome"], "applied");
    assert_eq!(fields(&hubs, "form", "f1").await, json!({ "title": "ana's", "n": 2 }));
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
