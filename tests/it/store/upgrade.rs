//! From a filled store of the first release to the schema of now: what it wrote is read as it was meant.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, SqliteConnection};
use syncline::app;
use syncline::id::Seq;
use syncline::store::Store;
use syncline::store::push::{Decided, View};
use syncline::store::retention::DEVICES;

use crate::support::hub::{config, token};
use crate::support::plan::{ack, commit, project, set, task};
use crate::support::site::Site;

on_both_engines!(a_store_of_the_first_release_is_read_as_it_was_meant);

/// The last migration of the first release.
const FIRST: i64 = 3;

const EPOCH_A: &str = "0b8f5c9e-6f1a-4c39-9d4e-2a7f2d1f8a10";
const EPOCH_B: &str = "11111111-6f1a-4c39-9d4e-2a7f2d1f8a10";

/// The operation of the third change, in the form it is hashed in.
const OP: &str = r#"{"op_id":"o3","kind":"update","type":"task","id":"t1","base":1,"fields":{"title":"roof 2"}}"#;
/// The odd spaces show that a replay is byte for byte.
const VERDICT: &str = r#"{"op_id":"o3",  "outcome":"applied","id":"t1","seq":3, "version":3}"#;

/// What the first release would have written; the same text on both engines.
const ROWS: &str = r#"
    INSERT INTO sync_head (project, epoch, head_seq) VALUES
        ('a', '{epoch_a}', 5), ('b', '{epoch_b}', 2), ('empty', '22222222-6f1a-4c39-9d4e-2a7f2d1f8a10', 0);
    INSERT INTO changes (project, seq, type, id, kind, patch, prev, actor, client, op_id, at) VALUES
        ('a', 1, 'task', 't1', 'create', '{"done":false,"title":"roof"}', 0, 'ana', 'phone', 'o1', 1764000000000),
        ('a', 2, 'task', 't2', 'create', '{"title":"door"}', 0, 'ana', 'phone', 'o2', 1764000000001),
        ('a', 3, 'task', 't1', 'update', '{"title":"roof 2"}', 1, 'ana', 'phone', 'o3', 1764000000002),
        ('a', 4, 'task', 't2', 'delete', NULL, 2, 'bo', 'tablet', 'o4', 1764000000003),
        ('a', 5, 'payroll', '1', 'create', '{"wage":4711}', 0, 'erp', 'erp', 'erp-7', 1764000000004),
        ('b', 1, 'note', 'n 1é', 'create', '{"text":"\u0000 🧑‍🚀"}', 0, 'cy', 'web', 'o1', 1764000000005),
        ('b', 2, 'note', 'n 1é', 'update', '{"text":"x"}', 1, 'cy', 'web', 'o2', 1764000000006);
    INSERT INTO entities
        (project, type, id, version, data, deleted_at, writer, writer_base, source_versions) VALUES
        ('a', 'task', 't1', 3, '{"done":false,"title":"roof 2"}', NULL, 'phone', 0, '{}'),
        ('a', 'task', 't2', 4, '{}', 1764000000003, 'tablet', 2, '{}'),
        ('a', 'payroll', '1', 5, '{"wage":4711}', NULL, 'erp', 0, '{"erp":7}'),
        ('b', 'note', 'n 1é', 2, '{"text":"x"}', NULL, 'web', 0, '{}');
    INSERT INTO sync_queue (project, op_id, payload_hash, outcome, verdict, client, at) VALUES
        ('a', 'o1', {hash}, 'applied', '{"op_id":"o1"}', 'phone', 1764000000000),
        ('a', 'o3', {hash}, 'applied', '{verdict}', 'phone', 1764000000002),
        ('b', 'o2', {hash}, 'applied', '{"op_id":"o2"}', 'web', 1764000000006);
    INSERT INTO notifications
        (nid, project, user_id, evt_seq, title, body, data, link, lane, created_at) VALUES
        ('n1', 'a', 'bo', 3, 'Roof', 'look', '{"x":1}', 'app://task/t1', 'high', 1764000000002),
        ('n2', 'a', 'bo', 5, 'Wage', '', NULL, NULL, 'normal', 1764000000004);
    INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, not_before, updated_at) VALUES
        ('n1', 'a', 'bo', 3, 'high', 1764000001502, 1764000000002),
        ('n2', 'a', 'bo', 5, 'normal', 1764000005004, 1764000000004);
    INSERT INTO device_cursors (user_id, client, project, acked, active, last_seen) VALUES
        ('ana', 'phone', 'a', 3, {true}, 1764000000010);
    INSERT INTO revocations (body, expires_at) VALUES ('{"kind":"user","user":"eve"}', 9999999999);
"#;

/// The first release's schema, filled.
async fn first_release(site: &Site) {
    let sqlite = site.config.url.starts_with("sqlite:");
    let hash = hex::encode(Sha256::digest(OP));
    let hash = if sqlite { format!("x'{hash}'") } else { format!(r"'\x{hash}'") };
    let rows = ROWS.replace("{epoch_a}", EPOCH_A).replace("{epoch_b}", EPOCH_B);
    let rows = rows.replace("{hash}", &hash).replace("{verdict}", VERDICT);
    let rows = rows.replace("{true}", if sqlite { "1" } else { "TRUE" });
    site.migrate_to(FIRST).await;
    site.run(&rows).await;
}

async fn a_store_of_the_first_release_is_read_as_it_was_meant(site: Site) {
    first_release(&site).await;
    let old = Store::open(&site.config).await.unwrap();
    assert!(!old.schema_is_current().await.unwrap());
    old.close().await;
    let store = site.open().await;
    assert!(store.schema_is_current().await.unwrap());
    entities_and_log(&store).await;
    devices(&site, &store).await;
    notifications(&store).await;
    answered_by_a_hub(&site).await;
    let write = [set("o9", "t2", json!({ "title": "again" }))];
    let committed = commit(&store, &project("a"), &write).await.unwrap();
    assert_eq!((committed.head, committed.entries[0].prev), (Seq(7), Seq(4)));
}

async fn entities_and_log(store: &Store) {
    let (a, b) = (project("a"), project("b"));
    let t1 = store.entity(&a, &task("t1")).await.unwrap().unwrap();
    assert_eq!((t1.version, t1.deleted), (Seq(3), false));
    assert_eq!(Value::Object(t1.fields), json!({ "done": false, "title": "roof 2" }));
    let t2 = store.entity(&a, &task("t2")).await.unwrap().unwrap();
    assert!(t2.deleted && t2.version == Seq(4) && t2.fields.is_empty());
    let mut wage = task("1");
    wage.kind = "payroll".parse().unwrap();
    assert_eq!(store.entity(&a, &wage).await.unwrap().unwrap().source_versions["erp"], 7);

    let all = store.delta(&a, Seq::ZERO, 10, u64::MAX).await.unwrap();
    let versions: Vec<_> = all.rows.iter().map(|row| (row.version.0, row.deleted)).collect();
    assert_eq!(versions, [(3, false), (4, true), (5, false)]);
    assert_eq!((all.head, all.tombstone_floor), (Seq(5), Seq::ZERO));
    assert_eq!(all.epoch.to_string(), EPOCH_A);
    assert_eq!(store.delta(&a, Seq(4), 10, u64::MAX).await.unwrap().rows.len(), 1);
    let note = store.delta(&b, Seq::ZERO, 10, u64::MAX).await.unwrap();
    assert_eq!(note.rows[0].key.id.as_str(), "n 1é");
    assert_eq!(note.epoch.to_string(), EPOCH_B);
    assert_eq!(store.open_project(&project("empty")).await.unwrap().head, Seq::ZERO);

    let log = store.page(&a, Seq(1), 10, u64::MAX).await.unwrap();
    assert_eq!(log.entries.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(log.entries[1].fields.as_ref().unwrap().get(), r#"{"title":"roof 2"}"#);
    assert!(log.entries[2].fields.is_none());
    assert_eq!(store.revocations(0).await.unwrap().len(), 1);
}

/// A retry of an old operation gets its first verdict, and a new one goes on from the old version.
async fn answered_by_a_hub(site: &Site) {
    let mut config = config(site.directory.path());
    config.store = site.config.clone();
    config.retention.interval = Duration::ZERO;
    let hub = app::start(config).await.unwrap();
    let url = format!("http://{}/v1/projects/a", hub.address);
    let token = token("ana", &json!({ "a": "editor" }));
    let send = async |method: Method, path: &str, body: String| {
        let request = reqwest::Client::new().request(method, format!("{url}/{path}"));
        let answer = request.bearer_auth(&token).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };
    let again = send(Method::POST, "ops", format!(r#"{{"ops":[{OP}],"client":"phone"}}"#)).await;
    assert_eq!(again, format!(r#"{{"verdicts":[{VERDICT}]}}"#));
    let new = json!({ "op_id": "o6", "kind": "update", "type": "task", "id": "t1", "base": 3,
        "fields": { "done": true } });
    let body = json!({ "ops": [new], "client": "laptop" }).to_string();
    let answer: Value = serde_json::from_str(&send(Method::POST, "ops", body).await).unwrap();
    let verdict = &answer["verdicts"][0];
    assert_eq!((&verdict["outcome"], &verdict["seq"]), (&json!("applied"), &json!(6)), "{answer}");
    let query = format!("changes?since=4&epoch={EPOCH_A}");
    let delta: Value =
        serde_json::from_str(&send(Method::GET, &query, String::new()).await).unwrap();
    assert_eq!((&delta["resync"], &delta["next"]), (&Value::Null, &json!(6)));
    let changes = delta["changes"].as_array().unwrap();
    assert_eq!(changes[1]["fields"], json!({ "done": true, "title": "roof 2" }));
    let sums: Value =
        serde_json::from_str(&send(Method::GET, "checksum", String::new()).await).unwrap();
    let count = sums["buckets"].as_array().unwrap().iter().map(|b| b["count"].as_u64().unwrap());
    assert_eq!(count.sum::<u64>(), 2);
    assert!(hub.stop().await.is_empty());
}

/// How far a device was is still known, and those of long ago are found by their index.
async fn devices(site: &Site, store: &Store) {
    assert_eq!(store.count_aged(DEVICES, Duration::ZERO).await.unwrap(), 1);
    let definition = if site.config.url.starts_with("sqlite:") {
        let mut db = SqliteConnection::connect(&site.config.url).await.unwrap();
        let sql = "SELECT sql FROM sqlite_master WHERE name = 'device_cursors_by_age'";
        sqlx::query_scalar::<_, String>(sql).fetch_one(&mut db).await.unwrap()
    } else {
        let mut db = PgConnection::connect(&site.config.url).await.unwrap();
        let sql = "SELECT indexdef FROM pg_indexes JOIN pg_index i
            ON i.indexrelid = indexname::regclass AND i.indisvalid
            WHERE indexname = 'device_cursors_by_age'";
        sqlx::query_scalar::<_, String>(sql).fetch_one(&mut db).await.unwrap()
    };
    assert!(definition.contains("(last_seen)"), "{definition}");
}

/// What waited then is due, and an acknowledgement answers it still.
async fn notifications(store: &Store) {
    assert_eq!(ack(store, ("a", "bo", "tablet"), 3, true, 1).await, 1);
    let (view, _) = store.dispatch(10, &|_: &View| Decided::default()).await.unwrap();
    let due = view.due;
    assert_eq!(due.iter().map(|intent| intent.nid.as_str()).collect::<Vec<_>>(), ["n2"]);
    assert_eq!(due[0].title, "Wage");
}
