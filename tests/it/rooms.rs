//! One hub on SQLite: rooms, changes in order, conflicts, resume.

use serde_json::json;
use syncline::fanout::ToShard;
use tokio::sync::watch;

use crate::support::client::{Client, create, seqs, update};
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::process::unlimited;
use crate::support::raw::{Heard, Raw, text};

#[tokio::test]
async fn a_change_reaches_every_room_it_belongs_to_once_and_in_order() {
    let hub = TestHub::start().await;
    let editor = token("ana", &json!({ "p": "editor" }));
    let mut writer = Client::connect(&hub.ws(), &editor).await;
    let mut reader = Client::connect(&hub.ws(), &token("bo", &json!({ "p": "viewer" }))).await;
    let rooms = reader
        .subscribe(json!([
            { "room": "entity:p:task:t1" },
            { "room": "project:p" },
            { "room": "project:other" },
            { "room": "nonsense" },
        ]))
        .await;
    assert_eq!(rooms[0]["room"], "entity:p:task:t1", "answers come in the order of the rooms");
    assert_eq!(rooms[1]["seq"], 0);
    assert_eq!(rooms[2]["error"]["code"], "forbidden");
    assert_eq!(rooms[3]["error"]["code"], "invalid_name");

    let verdicts = writer
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
    for seq in 1..=3 {
        assert_eq!(reader.expect("change").await["seq"], seq);
    }
    let stale = reader_write(&hub).await;
    assert_eq!(stale["outcome"], "superseded");
    assert_eq!(stale["current"]["fields"], json!({ "title": "one", "done": true }));
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0], "nothing came twice");
    hub.stop().await;
}

#[tokio::test]
async fn a_connection_has_so_many_rooms_however_many_frames_it_asks_in() {
    let hub = TestHub::start_with(|config| config.limits.rooms = 4).await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let rooms = |names: &[&str]| {
        let rooms = names.iter().map(|name| json!({ "room": format!("room:p:{name}") }));
        rooms.collect::<serde_json::Value>()
    };
    for (names, fit) in
        [(vec!["a", "b", "c"], true), (vec!["d"], true), (vec!["e"], false), (vec!["a"], true)]
    {
        for answer in ana.subscribe(rooms(&names)).await {
            assert_eq!(answer.get("error").is_none(), fit, "{names:?}: {answer}");
            if !fit {
                assert_eq!(answer["error"]["code"], "limit_exceeded");
                assert_eq!(answer["error"]["detail"]["limit"], "rooms", "{answer}");
            }
        }
    }
    ana.ask(json!({ "type": "unsubscribe", "rooms": ["room:p:a"] })).await;
    assert!(
        ana.subscribe(rooms(&["e"])).await[0].get("error").is_none(),
        "the place is free again"
    );
    hub.stop().await;
}

async fn reader_write(hub: &TestHub) -> serde_json::Value {
    let mut other = Client::connect(&hub.ws(), &token("cy", &json!({ "p": "editor" }))).await;
    other.write("p", json!([update("4", "t1", 0, &json!({ "title": "late" }))])).await.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_while_they_are_written_to_leave_nothing_behind() {
    let hub = TestHub::start_with(|config| {
        config.server.shards = 1;
        unlimited(config);
    })
    .await;
    let editor = token("ana", &json!({ "p": "editor" }));
    let mut readers = Vec::new();
    for _ in 0..40 {
        let mut reader = Client::connect(&hub.ws(), &editor).await;
        reader.subscribe(json!([{ "room": "project:p", "presence": true }])).await;
        readers.push(reader);
    }
    let mut writer = Client::connect(&hub.ws(), &editor).await;
    let (written, mut writes) = watch::channel(0);
    let writing = tokio::spawn(async move {
        for n in 0..150 {
            let ops: Vec<_> = (0..20)
                .map(|i| create(&format!("{n}-{i}"), &format!("{n}-{i}"), &json!({})))
                .collect();
            writer.write("p", json!(ops)).await;
            written.send_replace(n + 1);
        }
        writer.close().await;
    });
    // What they have not read makes the kernel reset the connections; some of these resets are met by a
    // write before they are read.
    for (nth, reader) in readers.into_iter().enumerate() {
        // A few writes apart, so that the last break while there is still something to write.
        writes.wait_for(|written| *written > nth * 3).await.unwrap();
        drop(reader);
    }
    writing.await.unwrap();
    eventually("all are gone", || async {
        hub.metric("syncline_connections") == 0.0 && hub.metric("syncline_subscriptions") == 0.0
    })
    .await;
    hub.stop().await;
}

#[tokio::test]
async fn a_client_resumes_from_its_cursor_with_nothing_missing() {
    let hub = TestHub::start_with(|config| config.limits.recent_bytes = 2000).await;
    let editor = token("ana", &json!({ "p": "editor" }));
    let mut writer = Client::connect(&hub.ws(), &editor).await;
    for n in 1..=50 {
        writer.write("p", json!([create(&format!("{n}"), &format!("t{n}"), &json!({}))])).await;
    }
    let mut reader = Client::connect(&hub.ws(), &editor).await;
    let rooms = reader
        .subscribe(json!([
            { "room": "project:p", "since": 7 },
            { "room": "entity:p:task:t9", "since": 3 },
        ]))
        .await;
    assert_eq!(rooms[0]["recovered"], true);
    for seq in 8..=50 {
        assert_eq!(reader.expect("change").await["seq"], seq);
    }
    writer.write("p", json!([create("51", "t51", &json!({}))])).await;
    assert_eq!(reader.expect("change").await["seq"], 51);
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0]);

    let late = reader.subscribe(json!([{ "room": "project:p", "since": 99 }])).await;
    assert_eq!(late[0]["resync"], "epoch_changed");
    hub.stop().await;
}

#[tokio::test]
async fn a_broadcast_reaches_the_room_but_not_its_sender() {
    let hub = TestHub::start().await;
    let mut ana = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let mut bo = Client::connect(&hub.ws(), &token("bo", &json!({ "p": "viewer" }))).await;
    for client in [&mut ana, &mut bo] {
        client.subscribe(json!([{ "room": "room:p:screen" }])).await;
    }
    let broadcast =
        json!({ "type": "broadcast", "room": "room:p:screen", "event": "typing", "data": [1] });
    assert_eq!(ana.ask(broadcast.clone()).await["type"], "ok");
    let event = bo.expect("event").await;
    assert_eq!(
        (&event["event"], &event["data"], &event["from"]),
        (&json!("typing"), &json!([1]), &json!("ana"))
    );
    assert_eq!(bo.ask(broadcast).await["code"], "forbidden");
    assert!(ana.settle().await.iter().all(|frame| frame["type"] != "event"));
    hub.stop().await;
}

#[tokio::test]
async fn changes_a_role_may_not_read_are_passed_over_visibly() {
    let hub = TestHub::start_with(|config| {
        let roles = &mut config.roles.0;
        roles.get_mut("viewer").unwrap().read = vec!["task".into()];
    })
    .await;
    let mut writer = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let mut viewer = Client::connect(&hub.ws(), &token("bo", &json!({ "p": "viewer" }))).await;
    let rooms =
        viewer.subscribe(json!([{ "room": "project:p" }, { "room": "entity:p:payroll:1" }])).await;
    assert_eq!(rooms[1]["error"]["code"], "forbidden");
    let secret = json!({ "op_id": "s", "kind": "create", "type": "payroll", "id": "1", "fields": { "pay": 1 } });
    writer
        .write("p", json!([create("1", "t1", &json!({})), secret, create("2", "t2", &json!({}))]))
        .await;
    assert_eq!(viewer.expect("change").await["seq"], 1);
    assert_eq!(viewer.expect("advance").await["seq"], 2);
    assert_eq!(viewer.expect("change").await["seq"], 3);
    hub.stop().await;
}

#[tokio::test]
async fn a_connection_never_inherits_the_rooms_of_one_that_left() {
    let hub = TestHub::start_with(|config| config.server.shards = 1).await;
    let editor = token("ana", &json!({ "p": "editor" }));
    for _ in 0..3 {
        let mut gone = Client::connect(&hub.ws(), &editor).await;
        gone.subscribe(json!([
            { "room": "project:p", "presence": true },
            { "room": "entity:p:task:t1" },
            { "room": "room:p:screen" },
        ]))
        .await;
        assert_eq!(hub.metric("syncline_presence_members"), 1.0);
        gone.close().await;
        eventually("it is gone", async || hub.metric("syncline_connections") == 0.0).await;
    }
    eventually("the hub forgot the rooms", async || hub.metric("syncline_connections") == 0.0)
        .await;
    let mut writer = Client::connect(&hub.ws(), &editor).await;
    let mut stranger = Client::connect(&hub.ws(), &token("eve", &json!({ "q": "viewer" }))).await;
    writer.write("p", json!([create("1", "t1", &json!({ "secret": 1 }))])).await;
    let broadcast = json!({ "type": "broadcast", "room": "room:p:screen", "event": "secret" });
    writer.ask(broadcast).await;
    for client in [&mut writer, &mut stranger] {
        assert_eq!(client.settle().await, [] as [serde_json::Value; 0]);
    }
    assert_eq!(hub.metric("syncline_subscriptions"), 0.0);
    hub.stop().await;
}

/// A project with one entity of 200 changes, larger together than what the kernel keeps for a socket, and who
/// wrote it.
async fn long_history() -> (TestHub, Client) {
    let hub = TestHub::start_with(|config| {
        unlimited(config);
        config.limits.catch_up_bytes = 32 << 10;
    })
    .await;
    let mut writer = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let filler = "x".repeat(4000);
    let fields = |n: u64| json!({ "x": format!("{n} {filler}") });
    let updates = (1..200).map(|n| update(&n.to_string(), "t1", n, &fields(n)));
    let ops: Vec<_> = std::iter::once(create("0", "t1", &fields(0))).chain(updates).collect();
    writer.write("p", ops.into()).await;
    (hub, writer)
}

#[tokio::test]
async fn an_entity_reads_on_if_the_projects_room_is_left_before_it_took_over() {
    let (hub, mut writer) = long_history().await;
    let mut reader = Raw::open_narrow(&hub.ws()).await;
    reader.upgrade(&token("bo", &json!({ "p": "viewer" }))).await;
    let subscribe = |rooms| text(&json!({ "type": "subscribe", "rooms": rooms }));
    reader.send(subscribe(json!([{ "room": "project:p" }]))).await;
    reader.expect("subscribed").await;
    // It stops reading, so its catch-up stands still far before where the project's room takes over.
    reader.send(subscribe(json!([{ "room": "entity:p:task:t1", "since": 0 }]))).await;
    eventually("it stands still", || async { hub.metric("syncline_outbox_bytes") > 0.0 }).await;
    writer.write("p", json!([update("200", "t1", 200, &json!({ "by": "project" }))])).await;
    reader.send(text(&json!({ "type": "unsubscribe", "rooms": ["project:p"] }))).await;
    eventually("it left", || async { hub.metric("syncline_subscriptions") == 1.0 }).await;
    writer.write("p", json!([update("201", "t1", 201, &json!({ "by": "itself" }))])).await;

    let mut heard = Vec::new();
    while !heard.contains(&202) {
        match reader.hear().await {
            Some(Heard::Text(frame)) if frame["type"] == "change" => {
                heard.push(frame["seq"].as_u64().unwrap());
            }
            Some(_) => {}
            None => panic!("the connection ended after {heard:?}"),
        }
    }
    // What the project's room brought came before the rest of the entity's past.
    heard.sort_unstable();
    assert_eq!(heard, (1..=202).collect::<Vec<_>>());
    hub.stop().await;
}

#[tokio::test]
async fn what_overlapping_rooms_brought_does_not_come_again_after_an_overflow() {
    let hub = TestHub::start().await;
    let mut writer = Client::connect(&hub.ws(), &token("ana", &json!({ "p": "editor" }))).await;
    let mut reader = Client::connect(&hub.ws(), &token("bo", &json!({ "p": "viewer" }))).await;
    let rooms = json!([{ "room": "project:p" }, { "room": "entity:p:task:t1" }]);
    reader.subscribe(rooms).await;
    let ops = [create("0", "t1", &json!({})), update("1", "t1", 1, &json!({ "n": 1 }))];
    writer.write("p", json!(ops)).await;
    for seq in 1..=2 {
        assert_eq!(reader.expect("change").await["seq"], seq);
    }
    hub.hub().relay.fanout.to_all(&ToShard::Overflow("p".parse().unwrap()));
    writer.write("p", json!([update("2", "t1", 2, &json!({ "n": 2 }))])).await;
    assert_eq!(reader.expect("change").await["seq"], 3);
    assert_eq!(seqs(&reader.settle().await), [] as [u64; 0], "nothing came twice");
    hub.stop().await;
}
