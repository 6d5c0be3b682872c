//! One operation, one effect, one verdict: whatever happens between the commit and whoever waits for it.
//!
//! Every operation here adds to a counter, which shows a second effect even where the log would not.

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, Row};
use syncline::config::{self, Config};
use syncline::store::Store;

use crate::support::client::Client;
use crate::support::crowd::PROJECT;
use crate::support::hub::{self, TestHub, token};
use crate::support::process::{Cluster, Process, log_of};
use crate::support::proxy::{Proxy, Way};
use crate::support::raw::authority;
use crate::support::schema::{Hubs, op, varied};
use crate::support::{eventually, postgres};

const TASK: (&str, &str) = ("task", "t1");

/// What the hub says to PostgreSQL when it writes to a log; its other work commits as well.
const WRITE: [&str; 2] = ["INSERT INTO changes", "COMMIT"];

/// Creates a counter at 0 and adds 5 to it twice.
fn ops() -> Value {
    let add = |op_id: &str, from: u64| {
        let change = json!({ "fields": { "hours": from + 5 }, "was": { "hours": from } });
        op(op_id, "update", TASK, &change)
    };
    json!(
        [op("1", "create", TASK, &json!({ "fields": { "hours": 0 } })), add("2", 0), add("3", 5),]
    )
}

/// That the operations took effect once: verdicts, log and counter agree.
async fn once(store: &Store, verdicts: &[Value]) {
    let log = log_of(store, PROJECT).await;
    let ids: Vec<_> = log.iter().map(|entry| entry.op_id.as_str()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
    let seqs: Vec<_> = verdicts.iter().map(|verdict| verdict["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(1), Some(2), Some(3)], "{verdicts:?}");
    let (kind, id) = TASK;
    let key = syncline::id::EntityKey { kind: kind.parse().unwrap(), id: id.parse().unwrap() };
    let row = store.entity(&PROJECT.parse().unwrap(), &key).await.unwrap().unwrap();
    assert_eq!(row.fields["hours"], 10);
}

/// A device of Ana's.
async fn phone(url: &str) -> Client {
    let mut client = Client::connect(url, &token("ana", &json!({ PROJECT: "editor" }))).await;
    client.ask(json!({ "type": "connect", "client": "phone" })).await;
    client
}

async fn send(client: &mut Client) {
    let write = json!({ "type": "write", "id": "w", "project": PROJECT, "ops": ops() });
    client.send(&write).await;
}

/// The next answer to [`send`], as it was sent.
async fn written(client: &mut Client) -> String {
    let reading = async {
        loop {
            let text = client.read_text().await.expect("the connection lives");
            if text.starts_with(r#"{"type":"written""#) {
                return text;
            }
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, reading).await.expect("an answer comes")
}

fn verdicts(written: &str) -> Vec<Value> {
    let answer: Value = serde_json::from_str(written).unwrap();
    answer["verdicts"].as_array().unwrap().clone()
}

async fn committed(store: &Store) {
    eventually("the operations are committed", || async {
        log_of(store, PROJECT).await.len() == 3
    })
    .await;
}

/// A database, a way to it that can be broken, and a handle beside that.
async fn database() -> (String, String, Proxy, Store) {
    let url = postgres::fresh_database().await;
    let port = authority(&url).rsplit_once(':').unwrap().1.to_owned();
    let link = Proxy::start(port.parse().unwrap()).await;
    let broken = url.replace(&format!(":{port}/"), &format!(":{}/", link.port()));
    let store =
        Store::open(&config::Store { url: url.clone(), ..Default::default() }).await.unwrap();
    store.migrate().await.unwrap();
    (url, broken, link, store)
}

#[tokio::test]
async fn a_commit_whose_outcome_is_unknown_is_not_done_twice() {
    let (_, url, link, store) = database().await;
    let hub = TestHub::start_with(|config| {
        varied(config);
        config.store.url = url;
    })
    .await;
    let mut client = phone(&hub.ws()).await;
    link.lose_answer_to(&WRITE);
    send(&mut client).await;
    committed(&store).await;
    eventually("the answer to the commit is lost", async || link.has_lost()).await;
    assert!(client.settle().await.iter().all(|frame| frame["type"] != "written"));
    // The hub learns nothing but that the connection is gone.
    link.heal();
    let answer = written(&mut client).await;
    assert!(hub.metric("syncline_store_errors_total") > 0.0, "the commit went through smoothly");
    once(&store, &verdicts(&answer)).await;
    hub.stop().await;
}

/// What waits for its user is shown to all of their devices, whoever of the hub's tries wrote it.
#[tokio::test]
async fn a_conflict_is_told_though_the_outcome_of_its_commit_was_unknown() {
    const PARK: [&str; 2] = ["INSERT INTO conflict_log", "COMMIT"];
    const FORM: (&str, &str) = ("form", "f1");
    let (_, url, link, store) = database().await;
    let hub = TestHub::start_with(|config| {
        varied(config);
        config.store.url = url;
    })
    .await;
    let mut phone = phone(&hub.ws()).await;
    let title = |base: u64, title| json!({ "base": base, "fields": { "title": title } });
    phone.write(PROJECT, json!([op("1", "create", FORM, &title(0, "one"))])).await;
    let mut desk = Client::connect(&hub.ws(), &token("bo", &json!({ PROJECT: "editor" }))).await;
    desk.ask(json!({ "type": "connect", "client": "desk" })).await;
    desk.write(PROJECT, json!([op("2", "update", FORM, &title(1, "bo's"))])).await;
    let mut tablet = Client::connect(&hub.ws(), &token("ana", &json!({ PROJECT: "editor" }))).await;
    tablet.ask(json!({ "type": "connect", "client": "tablet" })).await;
    link.lose_answer_to(&PARK);
    let late = op("3", "update", FORM, &title(1, "ana's"));
    phone.send(&json!({ "type": "write", "id": "w", "project": PROJECT, "ops": [late] })).await;
    eventually("the answer to the commit is lost", async || link.has_lost()).await;
    link.heal();
    let answer = verdicts(&written(&mut phone).await);
    assert_eq!(answer[0]["outcome"], "conflict");
    assert!(hub.metric("syncline_store_errors_total") > 0.0, "the commit went through smoothly");
    let told = tablet.find("the conflict", |frame| frame["type"] == "conflict").await;
    assert_eq!(told["conflict"]["id"], answer[0]["conflict"]);
    assert_eq!(log_of(&store, PROJECT).await.len(), 2);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_killed_between_commit_and_reply_has_decided() {
    let (direct, url, link, store) = database().await;
    let dir = tempfile::tempdir().unwrap();
    let start = |store_url: &str| {
        let mut config = hub::config(dir.path());
        varied(&mut config);
        config.store.url = store_url.to_owned();
        Process::start(config)
    };
    let (mut dies, lives) = (start(&url).await, start(&direct).await);
    let mut client = phone(&dies.ws()).await;
    link.lose_answer_to(&WRITE);
    send(&mut client).await;
    committed(&store).await;
    eventually("the answer to the commit is lost", async || link.has_lost()).await;
    dies.kill().await;
    let mut client = phone(&lives.ws()).await;
    send(&mut client).await;
    let answer = written(&mut client).await;
    once(&store, &verdicts(&answer)).await;
    link.heal();
    dies.restart().await;
    let mut client = phone(&dies.ws()).await;
    send(&mut client).await;
    assert_eq!(written(&mut client).await, answer, "whichever instance is asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_on_sqlite_killed_before_its_reply_arrives_has_decided() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = hub::config(dir.path());
    varied(&mut config);
    let store_config = config.store.clone();
    let mut process = Process::start(config).await;
    let store = Store::open(&store_config).await.unwrap();
    let way =
        Proxy::start(authority(&process.ws()).rsplit_once(':').unwrap().1.parse().unwrap()).await;
    let mut client = phone(&format!("ws://127.0.0.1:{}/v1/ws", way.port())).await;
    way.swallow(Way::ToClient);
    send(&mut client).await;
    committed(&store).await;
    process.kill().await;
    process.restart().await;
    let mut client = phone(&process.ws()).await;
    send(&mut client).await;
    let answer = written(&mut client).await;
    once(&store, &verdicts(&answer)).await;
    store.close().await;
}

#[tokio::test]
async fn a_reply_lost_with_its_connection_is_given_again() {
    let hub = TestHub::start_with(varied).await;
    let way = Proxy::start(authority(&hub.ws()).rsplit_once(':').unwrap().1.parse().unwrap()).await;
    let url = format!("ws://127.0.0.1:{}/v1/ws", way.port());
    let mut client = phone(&url).await;
    way.swallow(Way::ToClient);
    send(&mut client).await;
    committed(&hub.hub().store).await;
    way.heal();
    assert_eq!(client.end().await.0, [] as [Value; 0], "nothing arrived");
    let mut answers = Vec::new();
    for url in [&url, &hub.ws()] {
        let mut client = phone(url).await;
        send(&mut client).await;
        answers.push(written(&mut client).await);
    }
    assert_eq!(answers[0], answers[1]);
    once(&hub.hub().store, &verdicts(&answers[0])).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_that_get_the_same_at_once_decide_it_once() {
    let url = postgres::fresh_database().await;
    let cluster = Cluster::start_on(url.clone(), varied).await;
    let store = cluster.store().await;
    store.open_project(&PROJECT.parse().unwrap()).await.unwrap();
    // Both have to wait at the project's lock, so that neither is done when the other begins.
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let mut watcher = PgConnection::connect(&url).await.unwrap();
    holder.execute("BEGIN; SELECT * FROM sync_head FOR UPDATE").await.unwrap();
    let mut clients =
        [phone(&cluster.instances[0].ws()).await, phone(&cluster.instances[1].ws()).await];
    for client in &mut clients {
        send(client).await;
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let looking = async {
        while watcher.fetch_one(waiting).await.unwrap().get::<i64, _>(0) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, looking).await.expect("both wait for the lock");
    holder.execute("COMMIT").await.unwrap();
    let [one, two] = &mut clients;
    let (one, two) = (written(one).await, written(two).await);
    assert_eq!(one, two);
    once(&store, &verdicts(&one)).await;
}

#[tokio::test]
async fn an_op_id_stands_for_one_operation_on_sqlite() {
    reused(Hubs::sqlite(|_: &mut Config| {}).await).await;
}

#[tokio::test]
async fn an_op_id_stands_for_one_operation_on_postgres() {
    reused(Hubs::postgres(|_: &mut Config| {}).await).await;
}

async fn reused(hubs: Hubs) {
    let all = ops();
    let given = hubs.write(0, "ana", "phone", all.as_array().unwrap()).await;
    let mut other = all[1].clone();
    other["fields"]["hours"] = json!(50);
    let mut phone = hubs.device(1, "ana", "phone").await;
    // Elsewhere, and twice in one request.
    let fresh = |title| op("4", "create", ("task", "t4"), &json!({ "fields": { "title": title } }));
    let sent = json!([other, fresh("x"), fresh("y"), all[1]]);
    let verdicts = phone.write(PROJECT, sent).await;
    assert_eq!(verdicts[0]["code"], "op_id_reused");
    assert_eq!((&verdicts[1]["outcome"], &verdicts[1]["seq"]), (&json!("applied"), &json!(4)));
    assert_eq!(verdicts[2]["code"], "op_id_reused");
    assert_eq!(verdicts[3], given[1], "the refusal is not kept in the place of the verdict");
    // White space and order of keys are not content.
    let same = r#"[{"was":{"hours":0},"fields":{"hours":5},"id":"t1","type":"task","kind":"update","op_id":"2"}]"#;
    let body = format!(r#"{{"client":"phone","ops":{same}}}"#);
    let (_, answer) = hubs.post(0, "ana", "/v1/projects/p/ops", body).await;
    assert_eq!(answer["verdicts"][0], given[1]);
    once_of(&hubs).await;
    hubs.stop().await;
}

/// That the counter counted once, and the log has only what was let in.
async fn once_of(hubs: &Hubs) {
    let store = &hubs.hub(0).hub().store;
    let ids: Vec<_> = log_of(store, PROJECT).await.iter().map(|e| e.op_id.to_string()).collect();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    let (_, entity) = hubs.get(1, "ana", "/v1/projects/p/entities/task/t1").await;
    assert_eq!(entity["fields"]["hours"], 10);
}
