//! Presence of several instances on real Redis servers.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use serde_json::value::RawValue;
use syncline::bus::RedisLink;
use syncline::config;
use syncline::id::{InstanceId, Room, UserId};
use syncline::presence::{Delta, Departure, News, Presence};
use syncline::protocol::server::{Member, RawState};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::redis::{Cluster, Server};
use crate::support::{DEADLINE, eventually};

fn rules() -> config::Presence {
    config::Presence {
        grace: Duration::from_millis(1500),
        heartbeat: Duration::from_millis(100),
        lease: Duration::from_millis(1500),
        members: 200,
        batch: Duration::from_millis(50),
    }
}

fn room() -> Room {
    "room:p:lobby".parse().unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn state(json: &str) -> RawState {
    RawState(RawValue::from_string(json.to_owned()).unwrap().into())
}

/// One instance.
struct Node {
    presence: Presence,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    /// `kill -9`: nothing is said any more.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// SIGTERM.
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    fn join(&self, name: &str, conn: u64) {
        self.presence.join(&room(), &user(name), conn, None);
    }

    fn leave(&self, name: &str, conn: u64, departure: Departure) {
        self.presence.leave(&room(), &user(name), conn, departure);
    }

    async fn names(&self) -> Vec<String> {
        let list = self.presence.list(&room()).await;
        list.members.iter().map(|member| member.user.to_string()).collect()
    }
}

/// All instances of a hub, and a client that hears every delta any of them announces.
struct Hub {
    url: String,
    rules: config::Presence,
    sender: mpsc::UnboundedSender<News>,
    news: mpsc::UnboundedReceiver<News>,
    view: BTreeMap<(Room, UserId), Option<String>>,
    heard: usize,
}

impl Hub {
    fn new(url: String, rules: config::Presence) -> Self {
        let (sender, news) = mpsc::unbounded_channel();
        Self { url, rules, sender, news, view: BTreeMap::new(), heard: 0 }
    }

    fn node(&self) -> Node {
        let config = config::Bus { url: self.url.clone(), ..config::Bus::default() };
        let link = RedisLink::connect(&config).unwrap();
        let instance = InstanceId(Uuid::new_v4());
        let presence = Presence::redis(&self.rules, "test", link, instance, self.sender.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(presence.clone().run(stop.clone()));
        Node { presence, stop, task }
    }

    /// What an instance says next.
    async fn news(&mut self) -> News {
        timeout(DEADLINE, self.news.recv()).await.expect("in time").unwrap()
    }

    /// The next delta. The instances here do not hear what they announce, so they repeat who is here.
    async fn delta(&mut self) -> Delta {
        loop {
            if let News::Delta(delta) = self.news().await {
                return delta;
            }
        }
    }

    /// Takes one delta in. Who joins must be news: so each was announced once, and in order.
    fn follow(&mut self, delta: Delta) {
        let text = |member: &Member| member.state.as_ref().map(|state| state.0.get().to_owned());
        self.heard += 1;
        for member in delta.joined {
            let key = (delta.room.clone(), member.user.clone());
            let old = self.view.insert(key, text(&member));
            assert!(old.is_none(), "{} joined twice", member.user);
        }
        for user in delta.left {
            self.view.remove(&(delta.room.clone(), user.clone()));
        }
        for member in delta.updated {
            let key = (delta.room.clone(), member.user.clone());
            let old = self.view.insert(key, text(&member));
            assert!(old.is_some(), "{} was not here", member.user);
        }
    }

    /// Follows the deltas until the view is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&[&str]) -> bool) {
        let waiting = async {
            while !wanted(&self.users()) {
                let delta = self.delta().await;
                self.follow(delta);
            }
        };
        let done = timeout(DEADLINE, waiting).await;
        assert!(done.is_ok(), "in vain: {what}; here are {:?}", self.users());
    }

    /// Follows until exactly these users are here, and the nodes say the same.
    async fn until_here(&mut self, names: &[&str], nodes: &[&Node]) {
        self.until(&format!("{names:?} are here"), |users| users == names).await;
        for node in nodes {
            eventually("a node lists who is here", || async { node.names().await == names }).await;
        }
    }

    fn users(&self) -> Vec<&str> {
        self.view.keys().map(|(_, user)| user.as_str()).collect()
    }
}

async fn single() -> (Server, Hub) {
    let server = Server::start().await;
    let hub = Hub::new(server.url(), rules());
    (server, hub)
}

#[tokio::test]
async fn a_user_is_here_from_the_first_session_to_the_last_on_any_instance() {
    let (server, mut hub) = single().await;
    let (a, b, c) = (hub.node(), hub.node(), hub.node());
    a.join("ana", 1);
    hub.until_here(&["ana"], &[&a, &b, &c]).await;
    // The second session is no news; the third user's join shows that there was none.
    b.join("ana", 1);
    c.join("ben", 1);
    hub.until_here(&["ana", "ben"], &[&a, &b, &c]).await;
    a.leave("ana", 1, Departure::Explicit);
    c.leave("ben", 1, Departure::Explicit);
    hub.until_here(&["ana"], &[&a, &b, &c]).await;
    b.leave("ana", 1, Departure::Explicit);
    hub.until_here(&[], &[&a, &b, &c]).await;

    // Nothing is left in Redis but the leases.
    eventually("the keys are gone", || async {
        server.ask::<Vec<String>>("KEYS *").await.unwrap() == ["test:presence:leases"]
    })
    .await;
}

#[tokio::test]
async fn the_newest_state_wins_and_an_update_is_no_join() {
    let (_server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    a.presence.join(&room(), &user("ana"), 1, Some(state(r#"{"on":"a"}"#)));
    hub.until_here(&["ana"], &[&b]).await;
    b.presence.join(&room(), &user("ana"), 1, Some(state("2")));
    let shown = |hub: &Hub| hub.view.values().next().cloned().flatten();
    while shown(&hub).as_deref() != Some("2") {
        let delta = hub.delta().await;
        hub.follow(delta);
    }
    a.presence.update(&room(), &user("ana"), 1, state(r#"{"on":"a","é":true}"#));
    while shown(&hub).as_deref() != Some(r#"{"on":"a","é":true}"#) {
        let delta = hub.delta().await;
        hub.follow(delta);
    }
    a.leave("ana", 1, Departure::Explicit);
    while shown(&hub).as_deref() != Some("2") {
        let delta = hub.delta().await;
        hub.follow(delta);
    }
    assert_eq!(b.presence.list(&room()).await.members[0].state, Some(state("2")));
}

#[tokio::test]
async fn redis_comes_to_the_same_as_the_core() {
    let (_server, mut hub) = single().await;
    hub.rules.grace = Duration::from_secs(3600);
    let node = hub.node();
    let (sender, _news) = mpsc::unbounded_channel();
    let local = Presence::local(&hub.rules, sender);
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    for round in 0..300_u64 {
        let who = random.random_range(0..3);
        let (someone, conn) = (user(&format!("u{who}")), who * 10 + random.random_range(0..3));
        let new = state(&random.random_range(0..5).to_string());
        let act = random.random_range(0..6);
        // When the marker is listed, so is what was done before.
        let marker = user(&format!("marker{round}"));
        for presence in [&local, &node.presence] {
            match act {
                0 => presence.join(&room(), &someone, conn, None),
                1 => presence.join(&room(), &someone, conn, Some(new.clone())),
                2 | 3 => presence.update(&room(), &someone, conn, new.clone()),
                4 => presence.leave(&room(), &someone, conn, Departure::Explicit),
                _ => presence.leave(&room(), &someone, conn, Departure::Lost),
            }
            presence.join(&room(), &marker, 1000 + round, None);
        }
        let expected = local.list(&room()).await;
        eventually(&format!("{round}: {expected:?}"), || async {
            node.presence.list(&room()).await == expected
        })
        .await;
        for presence in [&local, &node.presence] {
            presence.leave(&room(), &marker, 1000 + round, Departure::Explicit);
        }
    }
}

#[tokio::test]
async fn a_network_switch_is_no_news() {
    let (_server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    a.presence.join(&room(), &user("ana"), 1, Some(state("1")));
    a.join("ben", 2);
    hub.until_here(&["ana", "ben"], &[&b]).await;
    let heard = hub.heard;
    a.leave("ana", 1, Departure::Lost);
    b.join("ana", 1);
    eventually("the other instance knows", || async { b.names().await.len() == 2 }).await;
    // Ben is lost later: when he is given up, ana would have been.
    a.leave("ben", 2, Departure::Lost);
    hub.until_here(&["ana"], &[&a, &b]).await;
    assert_eq!(hub.heard, heard + 1);
    assert_eq!(b.presence.list(&room()).await.members[0].state, Some(state("1")));
}

#[tokio::test]
async fn survivors_announce_the_leaves_of_a_dead_instance_once() {
    let (_server, mut hub) = single().await;
    hub.rules.members = 1000;
    let (a, b, c) = (hub.node(), hub.node(), hub.node());
    for n in 0..500 {
        a.join(&format!("a{n}"), n);
    }
    b.join("a7", 1);
    b.join("ben", 2);
    hub.until("all are here", |users| users.len() == 501).await;
    a.kill().await;
    hub.until_here(&["a7", "ben"], &[&b, &c]).await;
    b.leave("ben", 2, Departure::Explicit);
    hub.until_here(&["a7"], &[&b, &c]).await;
}

#[tokio::test]
async fn an_instance_that_stops_hands_its_users_over() {
    let (_server, mut hub) = single().await;
    hub.rules.grace = Duration::from_secs(2);
    let (a, b) = (hub.node(), hub.node());
    a.join("ana", 1);
    a.join("ben", 2);
    hub.until_here(&["ana", "ben"], &[&b]).await;
    let heard = hub.heard;
    a.stop().await;
    b.join("ana", 1);
    hub.until_here(&["ana"], &[&b]).await;
    assert_eq!(hub.heard, heard + 1);
}

#[tokio::test]
async fn redis_emptied_under_the_instances_is_filled_again_in_silence() {
    let (server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    a.join("ana", 1);
    a.join("ben", 2);
    b.join("ben", 1);
    hub.until_here(&["ana", "ben"], &[&a, &b]).await;
    let heard = hub.heard;
    for round in 0..2 {
        let _: String = server.ask("FLUSHALL").await.unwrap();
        // Once told by the bus, once found out by the lease.
        if round == 0 {
            a.presence.resync();
            b.presence.resync();
        }
        for node in [&a, &b] {
            eventually("all are back", || async { node.names().await == ["ana", "ben"] }).await;
        }
    }
    b.join("cem", 3);
    hub.until_here(&["ana", "ben", "cem"], &[&a, &b]).await;
    assert_eq!(hub.heard, heard + 1);
}

#[tokio::test]
async fn what_happened_while_redis_was_away_is_announced_when_it_is_back() {
    let (mut server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    a.join("ana", 1);
    a.join("ben", 2);
    b.join("cem", 1);
    hub.until_here(&["ana", "ben", "cem"], &[&a, &b]).await;
    let heard = hub.heard;
    server.kill().await;
    a.leave("ben", 2, Departure::Explicit);
    a.join("dan", 3);
    assert_eq!(a.names().await, ["ana", "dan"]);
    assert!(a.presence.page(&room(), None, 10).await.is_err());
    server.restart().await;
    hub.until_here(&["ana", "cem", "dan"], &[&a, &b]).await;
    assert!(hub.heard <= heard + 2, "what was known is announced again");
}

#[tokio::test]
async fn a_resync_removes_what_redis_holds_wrongly() {
    let (server, mut hub) = single().await;
    let a = hub.node();
    a.join("ana", 1);
    hub.until_here(&["ana"], &[&a]).await;
    // A session that this instance knows nothing of, as after a restart with an old snapshot.
    let dump: Vec<String> = server.ask("KEYS test:{p}:presence:held:*").await.unwrap();
    let _: i64 = server.ask(&format!("HSET {} 9:room:p:lobby eve", dump[0])).await.unwrap();
    let holder = dump[0].rsplit(':').next().unwrap().to_owned();
    // {session, state} packed: one array of one array of two texts.
    let client = redis::Client::open(server.url()).unwrap();
    let mut link = client.get_multiplexed_async_connection().await.unwrap();
    let script = "redis.call('HSET', KEYS[1], 'eve', cmsgpack.pack({{ARGV[1] .. ':9', ''}})) \
                  redis.call('HSET', KEYS[2], 'eve', '') redis.call('ZADD', KEYS[3], 0, 'eve')";
    let () = redis::Script::new(script)
        .key("test:{p}:presence:sessions:room:p:lobby")
        .key("test:{p}:presence:users:room:p:lobby")
        .key("test:{p}:presence:names:room:p:lobby")
        .arg(holder)
        .invoke_async(&mut link)
        .await
        .unwrap();
    hub.view.insert((room(), user("eve")), None);
    assert_eq!(a.names().await, ["ana", "eve"]);
    a.presence.resync();
    hub.until_here(&["ana"], &[&a]).await;
}

#[tokio::test]
async fn an_instance_declared_dead_by_mistake_comes_back() {
    let (server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    a.join("ana", 1);
    b.join("ben", 1);
    hub.until_here(&["ana", "ben"], &[&a, &b]).await;
    for holder in server.ask::<Vec<String>>("ZRANGE test:presence:leases 0 -1").await.unwrap() {
        let _: i64 = server.ask(&format!("ZADD test:presence:leases 0 {holder}")).await.unwrap();
    }
    let holders = || async {
        let all: Vec<String> = server.ask("ZRANGE test:presence:leases 0 -1").await.unwrap();
        all.len() == 2 && all.iter().all(|holder| !holder.ends_with(".0"))
    };
    eventually("both have new leases and the old ones are gone", holders).await;
    hub.until_here(&["ana", "ben"], &[&a, &b]).await;
    // Both are still followed: nobody is left over from the old names.
    a.leave("ana", 1, Departure::Explicit);
    b.leave("ben", 1, Departure::Lost);
    hub.until_here(&[], &[&a, &b]).await;
}

#[tokio::test]
async fn who_missed_a_delta_is_told_anew_who_is_here() {
    let (server, mut near) = single().await;
    let mut far = Hub::new(server.url(), rules());
    let (a, b) = (near.node(), far.node());
    b.join("bo", 1);
    let first = far.delta().await;
    b.presence.heard(&first);
    a.join("ana", 1);
    // Whoever announces it, `b` does not hear of it, and nothing comes after it.
    let lost = tokio::select! { delta = near.delta() => delta, delta = far.delta() => delta };
    assert_eq!((lost.prev, lost.joined.len()), (first.version, 1));
    let whole = async {
        loop {
            if let News::Whole(room, list) = far.news().await {
                let names: Vec<_> = list.members.iter().map(|m| m.user.as_str()).collect();
                if names == ["ana", "bo"] {
                    return (room, list.users);
                }
            }
        }
    };
    assert_eq!(timeout(DEADLINE, whole).await.expect("it is told"), (room(), 2));
}

#[tokio::test]
async fn a_large_room_is_counted_sampled_and_paged() {
    let (_server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    for n in 0..2500 {
        a.join(&format!("a{n:04}"), n);
        b.join(&format!("b{n:04}"), n);
    }
    eventually("all are counted", || async { a.presence.list(&room()).await.users == 5000 }).await;
    assert_eq!(b.presence.list(&room()).await.members.len(), 200);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = b.presence.page(&room(), after.as_ref(), 700).await.unwrap();
        assert!(page.users == 5000 && page.members.len() <= 700);
        seen.extend(page.members.into_iter().map(|member| member.user));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 5000);
    assert!(seen.is_sorted());
    let mut users = 0;
    while users < 5000 {
        let delta = hub.delta().await;
        assert!(delta.joined.len() <= if delta.users > 200 { 200 } else { 1000 });
        users = delta.users;
    }
}

#[tokio::test]
async fn a_burst_becomes_few_deltas() {
    let (_server, mut hub) = single().await;
    let (a, b) = (hub.node(), hub.node());
    let start = Instant::now();
    hub.rules.members = 1000;
    let c = hub.node();
    for n in 0..500 {
        [&a, &b, &c][n % 3].join(&format!("u{n}"), n as u64);
    }
    // Gone before anyone heard of them, or at least gone: they may not stay.
    for n in 0..100 {
        [&a, &b, &c][n % 3].leave(&format!("u{n}"), n as u64, Departure::Explicit);
    }
    let mut deltas = 0;
    loop {
        let delta = hub.delta().await;
        deltas += 1;
        if delta.users == 400 && a.presence.list(&room()).await.users == 400 {
            break;
        }
    }
    let batches = start.elapsed().as_millis() / rules().batch.as_millis();
    assert!(deltas <= batches + 2, "{deltas} deltas in {batches} batches");
}

#[tokio::test]
async fn a_cluster_serves_presence_too() {
    let cluster = Cluster::start().await;
    let mut hub = Hub::new(cluster.url(), rules());
    let (a, b) = (hub.node(), hub.node());
    for n in 0..20 {
        let room: Room = format!("room:p{n}:lobby").parse().unwrap();
        a.presence.join(&room, &user("ana"), 1, None);
        b.presence.join(&room, &user("ben"), 1, Some(state("1")));
    }
    hub.until("all are here", |users| users.len() == 40).await;
    a.presence.resync();
    b.presence.resync();
    a.kill().await;
    hub.until("the dead instance's users left", |users| users == ["ben"; 20]).await;
    for n in 0..20 {
        let room: Room = format!("room:p{n}:lobby").parse().unwrap();
        assert_eq!(b.presence.list(&room).await.users, 1);
    }
}
