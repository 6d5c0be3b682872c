//! What nobody here reads is not listened to: a project's channel ends some time after its last reader, a user's
//! inbox with their last connection.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::hub::{TestHub, token};
use crate::support::redis::{Cluster, Server};

/// Longer than a project without readers is kept warm.
const KEPT_WARM: Duration = Duration::from_secs(31);

/// How many instances listen to a channel.
async fn listeners(servers: &[&Server], sharded: bool, channel: &str) -> u64 {
    let command = if sharded { "SHARDNUMSUB" } else { "NUMSUB" };
    let mut sum = 0;
    for server in servers {
        // On a Cluster only the channel's own master answers.
        let answer = server.ask::<(String, u64)>(&format!("PUBSUB {command} {channel}")).await;
        sum += answer.map_or(0, |(_, count)| count);
    }
    sum
}

/// Lets time pass for this test's runtime, and with it for whatever looks after projects without readers.
async fn time_passes() {
    tokio::time::pause();
    tokio::time::advance(KEPT_WARM).await;
    tokio::time::resume();
}

async fn channels_end_with_their_last_reader(url: &str, servers: &[&Server], sharded: bool) {
    let hub = TestHub::start_with(|config| config.bus.url = url.to_owned()).await;
    eventually("the bus is up", || async { hub.metric("syncline_bus_link_up") == 1.0 }).await;
    let heard = async |channel: &str, count: u64| {
        eventually(&format!("{channel} has {count} listeners"), || async {
            listeners(servers, sharded, channel).await == count
        })
        .await;
    };
    let (p, q, ana_inbox) = ("syncline:p:{p}", "syncline:p:{q}", "syncline:u:{ana}");
    let join = async |user: &str, rooms: Value| {
        let token = token(user, &json!({ "p": "viewer", "q": "viewer" }));
        let mut client = Client::connect(&hub.ws(), &token).await;
        client.subscribe(rooms).await;
        client
    };
    let mut ana = join(
        "ana",
        json!([{ "room": "project:p" }, { "room": "room:q:screen" },
        { "room": "entity:q:task:t" }]),
    )
    .await;
    let bo = join("bo", json!([{ "room": "entity:p:task:t" }])).await;
    for channel in [p, q, ana_inbox] {
        heard(channel, 1).await;
    }

    // The last of q's rooms is left; p has readers still.
    for room in ["room:q:screen", "entity:q:task:t", "project:p"] {
        assert_eq!(listeners(servers, sharded, q).await, 1);
        let left = ana.ask(json!({ "type": "unsubscribe", "rooms": [room] })).await;
        assert_eq!(left["type"], "unsubscribed");
    }
    assert_eq!(listeners(servers, sharded, q).await, 1, "it is kept warm for a while");
    time_passes().await;
    heard(q, 0).await;
    assert_eq!(
        (listeners(servers, sharded, p).await, listeners(servers, sharded, ana_inbox).await),
        (1, 1)
    );

    // p's last reader does not leave, but is gone.
    drop(bo);
    ana.close().await;
    heard(ana_inbox, 0).await;
    eventually("bo is gone", || async { hub.metric("syncline_connections") == 0.0 }).await;
    time_passes().await;
    heard(p, 0).await;

    // Who comes back is served again.
    let _again = join("ana", json!([{ "room": "project:p" }])).await;
    heard(p, 1).await;
    hub.stop().await;
}

#[tokio::test]
async fn channels_of_a_server_end_with_their_last_reader() {
    let server = Server::start().await;
    channels_end_with_their_last_reader(&server.url(), &[&server], false).await;
}

#[tokio::test]
async fn channels_of_a_cluster_end_with_their_last_reader() {
    let cluster = Cluster::start().await;
    let masters: Vec<_> = cluster.masters.iter().collect();
    channels_end_with_their_last_reader(&cluster.url(), &masters, true).await;
}
