//! The main job from end to end: on three instances with PostgreSQL and Redis, and the same on one with
//! SQLite. Clients are spread over the instances and must not be able to tell.

use std::time::Duration;

use serde_json::{Value, json};
use syncline::config::Config;

use crate::support::client::{Client, create, seqs, update};
use crate::support::process::{Cluster, Process};
use crate::support::redis::Server;
use crate::support::{eventually, hub};

const SCREEN: &str = "room:p:screen";

fn patient(config: &mut Config) {
    // An acknowledgement has this long to come, and to be gathered and stored.
    config.push.grace_critical = Duration::from_secs(3);
    config.push.poll = Duration::from_millis(100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_with_postgres_and_redis_are_one_hub() {
    let cluster = Cluster::start(patient).await;
    main_job(&cluster.instances, Some(&cluster.redis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_with_sqlite_is_a_whole_hub() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = hub::config(dir.path());
    patient(&mut config);
    main_job(&[Process::start(config).await], None).await;
}

/// Connects a user to one of the instances.
async fn connect(instances: &[Process], number: usize, user: &str) -> Client {
    let token = hub::token(user, &json!({ "p": "editor" }));
    Client::connect(&instances[number % instances.len()].ws(), &token).await
}

async fn main_job(instances: &[Process], redis: Option<&Server>) {
    let mut ana = connect(instances, 0, "ana").await;
    let mut others = Vec::new();
    for (number, user) in ["bo", "cy", "di"].iter().enumerate() {
        let mut all = connect(instances, number, user).await;
        all.subscribe(json!([
            { "room": "entity:p:task:t1" },
            { "room": "project:p" },
            { "room": SCREEN, "presence": true },
        ]))
        .await;
        let mut one = connect(instances, number, user).await;
        one.subscribe(json!([{ "room": "entity:p:task:t1" }])).await;
        others.push((all, one));
    }

    changes_reach_everyone(&mut ana, &mut others).await;
    a_stale_write_conflicts(instances).await;
    presence_is_the_same_everywhere(&mut others).await;
    whoever_was_away_catches_up(instances, &mut ana, others.pop().unwrap()).await;
    pushes_go_to_those_who_did_not_acknowledge(instances, &mut ana, &mut others[1].0).await;
    if let Some(redis) = redis {
        backends_reach_everyone(redis, &mut others).await;
    }
}

async fn changes_reach_everyone(ana: &mut Client, others: &mut [(Client, Client)]) {
    let verdicts = ana
        .write(
            "p",
            json!([
                create("1", "t1", &json!({ "title": "one" })),
                create("2", "t2", &json!({})),
                update("3", "t1", 1, &json!({ "done": true })),
            ]),
        )
        .await;
    assert!(verdicts.iter().all(|verdict| verdict["outcome"] == "applied"), "{verdicts:?}");
    for (all, one) in others {
        for seq in 1..=3 {
            assert_eq!(all.expect("change").await["seq"], seq);
        }
        for seq in [1, 3] {
            assert_eq!(one.expect("change").await["seq"], seq);
        }
        assert_eq!(
            one.settle().await,
            [] as [Value; 0],
            "an entity's room brings that entity alone"
        );
    }
}

async fn a_stale_write_conflicts(instances: &[Process]) {
    let mut late = connect(instances, 2, "eve").await;
    let stale = update("4", "t1", 0, &json!({ "title": "late" }));
    for _ in 0..2 {
        let verdict = late.write("p", json!([stale])).await.remove(0);
        assert_eq!(verdict["outcome"], "superseded");
        assert_eq!(verdict["current"]["version"], 3);
        assert_eq!(verdict["current"]["fields"], json!({ "title": "one", "done": true }));
        late = connect(instances, 1, "eve").await; // a retry elsewhere is told the same
    }
}

/// One backend adds to the stream, another publishes, which all instances hear.
async fn backends_reach_everyone(redis: &Server, others: &mut [(Client, Client)]) {
    let event = |id: &str, n: u64| {
        json!({ "id": id, "project": "p", "kind": "upsert", "source": "erp",
            "entity": { "type": "task", "id": "t3" }, "fields": { "n": n } })
    };
    for (all, _) in &mut *others {
        all.settle().await;
    }
    let added = format!("XADD syncline:ingest * event {}", event("added", 1));
    let _entry: String = redis.ask(&added).await.unwrap();
    for (all, _) in &mut *others {
        assert_eq!(all.expect("change").await["fields"], json!({ "n": 1 }));
    }
    let published = format!("PUBLISH syncline:publish {}", event("published", 2));
    let _heard: u64 = redis.ask(&published).await.unwrap();
    for (all, _) in &mut *others {
        assert_eq!(all.expect("change").await["fields"], json!({ "n": 2 }));
        assert_eq!(seqs(&all.settle().await), [] as [u64; 0], "each came once");
    }
}

async fn presence_is_the_same_everywhere(others: &mut [(Client, Client)]) {
    let state = json!({ "type": "presence", "room": SCREEN, "state": { "at": "t1" } });
    assert_eq!(others[0].0.ask(state).await["type"], "ok");
    for (client, _) in &mut *others {
        let updated = |frame: &Value| frame["updated"][0]["state"] == json!({ "at": "t1" });
        let frame = client.find("an update of presence", updated).await;
        assert_eq!((&frame["updated"][0]["user"], &frame["users"]), (&json!("bo"), &json!(3)));
    }
    let mut users = Vec::new();
    for (client, _) in &mut *others {
        let room = client.subscribe(json!([{ "room": SCREEN, "presence": true }])).await.remove(0);
        let members = room["presence"]["members"].as_array().unwrap();
        let mut names: Vec<_> =
            members.iter().map(|member| member["user"].as_str().unwrap().to_owned()).collect();
        names.sort();
        users.push(names);
    }
    assert!(users.iter().all(|names| *names == ["bo", "cy", "di"]), "{users:?}");
    let leave = json!({ "type": "unsubscribe", "rooms": [SCREEN] });
    assert_eq!(others[2].0.ask(leave).await["type"], "unsubscribed");
    for (client, _) in &mut others[..2] {
        let left = client.find("di leaves", |frame| frame["left"] == json!(["di"])).await;
        assert_eq!(left["users"], 2);
    }
}

async fn whoever_was_away_catches_up(
    instances: &[Process],
    ana: &mut Client,
    (away, _): (Client, Client),
) {
    away.close().await;
    ana.write("p", json!([create("5", "t5", &json!({})), create("6", "t6", &json!({}))])).await;
    let mut back = connect(instances, 0, "di").await;
    let rooms = back.subscribe(json!([{ "room": "project:p", "since": 3 }])).await;
    assert_eq!(rooms[0]["recovered"], true);
    ana.write("p", json!([create("7", "t7", &json!({}))])).await;
    for seq in 4..=6 {
        assert_eq!(back.expect("change").await["seq"], seq);
    }
    assert_eq!(seqs(&back.settle().await), [] as [u64; 0]);
}

async fn pushes_go_to_those_who_did_not_acknowledge(
    instances: &[Process],
    ana: &mut Client,
    cy: &mut Client,
) {
    let notify = json!({ "users": ["cy", "zoe", "ana"], "title": "Help", "lane": "critical" });
    let mut sos = create("8", "sos", &json!({}));
    sos["notify"] = notify;
    let verdict = ana.write("p", json!([sos])).await.remove(0);
    let notification = cy.expect("notification").await;
    assert_eq!((&notification["title"], &notification["seq"]), (&json!("Help"), &verdict["seq"]));
    let ack = json!({ "type": "ack", "project": "p", "seq": verdict["seq"] });
    assert_eq!(cy.ask(ack).await["type"], "ok");

    let pushes = |state: &str| {
        let name = format!("syncline_push_intents_total{{state=\"{state}\"}}");
        async move {
            let mut sum = 0.0;
            for instance in instances {
                sum += instance.metric(&name).await;
            }
            sum
        }
    };
    eventually("cy's push is canceled", || async { pushes("canceled").await == 1.0 }).await;
    let pushed = || -> Vec<String> {
        let log: String = instances.iter().map(Process::log).collect();
        let of_pushes = |line: &&str| line.contains("push (log provider)");
        log.lines().filter(of_pushes).map(str::to_owned).collect()
    };
    eventually("zoe's push is sent", || async { !pushed().is_empty() }).await;
    eventually("nobody else's is waiting", || async { pushes("done").await == 1.0 }).await;
    let pushed = pushed();
    assert_eq!(pushed.len(), 1, "{pushed:?}");
    assert!(pushed[0].contains("\"zoe\""), "{pushed:?}");
    assert_eq!(pushes("canceled").await, 1.0, "the actor is not notified of their own act");
}
