//! The bus between instances: on a single server and on a Cluster, whole and broken.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use redis::RedisError;
use syncline::bus::{Bus, BusError, BusEvent, Events, RedisLink, Topic, key};
use syncline::config;
use syncline::id::{InstanceId, ProjectId, UserId};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::support::proxy::Proxy;
use crate::support::redis::{Cluster, Server};
use crate::support::{DEADLINE, eventually};

fn config(url: &str) -> config::Bus {
    config::Bus {
        url: url.to_owned(),
        prefix: "test".to_owned(),
        probe_interval: Duration::from_millis(100),
        ..config::Bus::default()
    }
}

fn topic(number: usize) -> Topic {
    Topic::Project(ProjectId::new(&format!("p{number}")).unwrap())
}

/// One instance on the bus.
struct Instance {
    bus: Bus,
    events: Events,
    _stop: DropGuard,
}

impl Instance {
    /// Starts, whatever the state of Redis.
    fn start(url: &str) -> Self {
        let (bus, events) = Bus::open(&config(url), InstanceId(Uuid::new_v4())).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(bus.clone().run(stop.clone()));
        Self { bus, events, _stop: stop.drop_guard() }
    }

    /// Starts and waits for the link.
    async fn join(url: &str) -> Self {
        let mut instance = Self::start(url);
        assert_eq!(instance.event().await, BusEvent::Healed);
        assert!(instance.bus.link_up());
        instance
    }

    async fn event(&mut self) -> BusEvent {
        timeout(DEADLINE, self.events.recv()).await.expect("no event came").unwrap()
    }

    async fn message(&mut self) -> (Topic, String) {
        match self.event().await {
            BusEvent::Message { topic, payload, sent_at_ms } => {
                assert!(sent_at_ms > 0);
                (topic, String::from_utf8(payload.to_vec()).unwrap())
            }
            other => panic!("{other:?} instead of a message"),
        }
    }

    async fn subscribe(&self, topic: &Topic) {
        self.bus.subscribe(topic.clone()).await.unwrap();
    }

    fn publish(&self, topic: &Topic, payload: &str) {
        self.bus.publish(topic, payload.as_bytes());
    }

    /// The break and its end, whatever messages come between.
    async fn suspect_then_healed(&mut self) {
        for expected in [BusEvent::Suspect, BusEvent::Healed] {
            loop {
                match self.event().await {
                    BusEvent::Message { .. } => {}
                    event => {
                        assert_eq!(event, expected);
                        break;
                    }
                }
            }
        }
    }
}

/// What holds on every healthy bus.
async fn conformance(url: &str) {
    let (mut ana, mut ben) = (Instance::join(url).await, Instance::join(url).await);

    // Both hear each other and not themselves, on every kind of topic.
    let user = Topic::User(UserId::new("ana@example.org").unwrap());
    for topic in [topic(0), user, Topic::Control] {
        ana.subscribe(&topic).await;
        ben.subscribe(&topic).await;
        ana.publish(&topic, "from ana");
        assert_eq!(ben.message().await, (topic.clone(), "from ana".to_owned()));
        ben.publish(&topic, "from ben");
        assert_eq!(ana.message().await, (topic, "from ben".to_owned()));
    }

    // Nothing comes on a topic after its end.
    ana.subscribe(&topic(1)).await;
    ana.bus.unsubscribe(topic(0));
    ana.subscribe(&topic(2)).await;
    ben.publish(&topic(0), "unheard");
    ben.publish(&topic(1), "heard");
    assert_eq!(ana.message().await, (topic(1), "heard".to_owned()));

    // Many at once.
    let topics: Vec<_> = (10..2010).map(topic).collect();
    join_all(topics.iter().map(|topic| ana.subscribe(topic))).await;
    for topic in &topics {
        ben.publish(topic, "one of many");
    }
    let mut heard = HashSet::new();
    while heard.len() < topics.len() {
        heard.insert(ana.message().await.0);
    }
    assert_eq!(heard, topics.into_iter().collect());
    assert_eq!((ana.bus.stats().dropped, ben.bus.stats().dropped), (0, 0));
    assert_eq!(ana.bus.stats().received, 2004);
}

#[tokio::test]
async fn instances_hear_each_other_over_a_server() {
    let server = Server::start().await;
    conformance(&server.url()).await;
}

#[tokio::test]
async fn instances_hear_each_other_over_a_cluster() {
    let cluster = Cluster::start().await;
    conformance(&cluster.url()).await;
}

#[tokio::test(start_paused = true)]
async fn a_local_bus_is_always_up_and_silent() {
    let mut alone = Instance::start("local");
    assert!(alone.bus.link_up());
    alone.subscribe(&topic(0)).await;
    alone.publish(&topic(0), "to nobody");
    assert!(timeout(DEADLINE, alone.events.recv()).await.is_err());
}

/// A server, an instance behind a proxy, and one with a link of its own.
async fn behind_proxy() -> (Server, Proxy, Instance, Instance) {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let far = Instance::join(&format!("redis://127.0.0.1:{}", proxy.port())).await;
    let near = Instance::join(&server.url()).await;
    (server, proxy, far, near)
}

#[tokio::test]
async fn a_subscription_is_confirmed_before_it_is_reported() {
    let (_server, proxy, mut far, near) = behind_proxy().await;
    proxy.delay(Duration::from_millis(20));
    for number in 0..20 {
        far.subscribe(&topic(number)).await;
        near.publish(&topic(number), "at once");
        assert_eq!(far.message().await.0, topic(number));
    }
}

#[tokio::test]
async fn a_silent_link_is_noticed_and_heals() {
    let (_server, proxy, mut far, near) = behind_proxy().await;
    far.subscribe(&topic(0)).await;
    proxy.black_hole();
    assert_eq!(far.event().await, BusEvent::Suspect);
    assert!(!far.bus.link_up());

    let refused = timeout(DEADLINE, far.bus.subscribe(topic(1))).await.unwrap();
    assert!(matches!(refused, Err(BusError::LinkDown)), "{refused:?}");
    near.publish(&topic(0), "missed");

    proxy.forward();
    assert_eq!(far.event().await, BusEvent::Healed);
    for number in 0..2 {
        near.publish(&topic(number), "after");
        assert_eq!(far.message().await, (topic(number), "after".to_owned()));
    }
}

#[tokio::test]
async fn a_subscription_on_a_breaking_link_ends_with_an_error_and_is_made_later() {
    let (_server, proxy, mut far, near) = behind_proxy().await;
    proxy.black_hole();
    // The first is on its way to the server when the others come.
    let broken = (0..5).map(|number| {
        let bus = &far.bus;
        async move {
            for _ in 0..number * 10 {
                tokio::task::yield_now().await;
            }
            bus.subscribe(topic(number)).await
        }
    });
    for broken in timeout(DEADLINE, join_all(broken)).await.expect("a subscription hangs") {
        assert!(matches!(broken, Err(BusError::LinkDown)), "{broken:?}");
    }
    proxy.forward();
    far.suspect_then_healed().await;
    for number in 0..5 {
        near.publish(&topic(number), "after");
        assert_eq!(far.message().await, (topic(number), "after".to_owned()));
    }
}

#[tokio::test]
async fn a_cut_link_heals_with_all_its_topics() {
    let (_server, proxy, mut far, near) = behind_proxy().await;
    join_all((0..2000).map(|number| far.bus.subscribe(topic(number)))).await;
    far.bus.unsubscribe(topic(1999));
    proxy.cut_all();
    far.suspect_then_healed().await;
    for number in (0..2000).rev() {
        near.publish(&topic(number), "after");
    }
    for number in (0..1999).rev() {
        assert_eq!(far.message().await.0, topic(number));
    }
}

#[tokio::test]
async fn a_hub_starts_without_redis() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    proxy.refuse();
    let mut early = Instance::start(&format!("redis://127.0.0.1:{}", proxy.port()));
    assert_eq!(early.event().await, BusEvent::Suspect);
    assert!(early.bus.subscribe(topic(0)).await.is_err());
    proxy.forward();
    assert_eq!(early.event().await, BusEvent::Healed);
    let late = Instance::join(&server.url()).await;
    late.publish(&topic(0), "hello");
    assert_eq!(early.message().await.0, topic(0));
}

#[tokio::test]
async fn publishing_on_a_dead_link_is_bounded_and_counted() {
    let (_server, proxy, mut far, _near) = behind_proxy().await;
    proxy.black_hole();
    let payload = "x".repeat(64 << 10);
    // 64 MiB: more than may wait. `publish` returns at once, full or not.
    for _ in 0..1024 {
        far.publish(&topic(0), &payload);
    }
    assert!(far.bus.stats().dropped > 800, "{:?}", far.bus.stats());
    assert_eq!(far.event().await, BusEvent::Suspect);
    far.publish(&topic(0), "into the void");
    let bus = &far.bus;
    eventually("what waited is counted", || async { bus.stats().dropped >= 1025 }).await;
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_to_heal() {
    let server = Server::start().await;
    let (mut slow, fast) =
        (Instance::join(&server.url()).await, Instance::join(&server.url()).await);
    slow.subscribe(&topic(0)).await;
    let payload = "x".repeat(1 << 20);
    let (slow_bus, fast_bus) = (slow.bus.clone(), fast.bus.clone());
    eventually("the inbox overflows", || async {
        fast_bus.publish(&topic(0), payload.as_bytes());
        slow_bus.stats().dropped > 0
    })
    .await;
    while let BusEvent::Message { .. } = slow.event().await {}
    assert!(slow.bus.link_up(), "the link itself did not break");
}

#[tokio::test]
async fn what_was_published_before_the_stop_is_sent() {
    let server = Server::start().await;
    let (mut ana, ben) = (Instance::join(&server.url()).await, Instance::join(&server.url()).await);
    ana.subscribe(&topic(0)).await;
    for number in 0..100 {
        ben.publish(&topic(0), &number.to_string());
    }
    let bus = ben.bus.clone();
    drop(ben);
    for number in 0..100 {
        assert_eq!(ana.message().await.1, number.to_string());
    }
    let late = timeout(DEADLINE, bus.subscribe(topic(0))).await.unwrap();
    assert!(matches!(late, Err(BusError::LinkDown)), "{late:?}");
}

#[tokio::test]
async fn a_cluster_that_loses_a_master_heals_when_it_returns() {
    let mut cluster = Cluster::start().await;
    let (mut ana, mut ben) =
        (Instance::join(&cluster.url()).await, Instance::join(&cluster.url()).await);
    join_all((0..50).map(|number| ana.bus.subscribe(topic(number)))).await;
    cluster.masters[1].kill().await;
    assert_eq!(ana.event().await, BusEvent::Suspect);
    assert!(ana.bus.subscribe(topic(50)).await.is_err());
    for number in 0..50 {
        ben.publish(&topic(number), "perhaps");
    }
    cluster.masters[1].restart().await;
    cluster.healthy().await;
    ben.suspect_then_healed().await;
    while ana.event().await != BusEvent::Healed {}
    for number in 0..=50 {
        ben.publish(&topic(number), "after");
    }
    let mut heard = HashSet::new();
    while heard.len() < 51 {
        heard.insert(ana.message().await.0);
    }
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_subscriptions_along() {
    let cluster = Cluster::start().await;
    let (mut ana, mut ben) =
        (Instance::join(&cluster.url()).await, Instance::join(&cluster.url()).await);
    ana.subscribe(&topic(0)).await;
    let (from, slot) = cluster.master_of("test:p:{p0}").await;
    cluster.move_slot(slot, from, (from + 1) % 3).await;
    // The subscriber is told by the server; the publisher finds out when it publishes.
    ana.suspect_then_healed().await;
    ben.publish(&topic(0), "refused");
    ben.suspect_then_healed().await;
    ben.publish(&topic(0), "after");
    assert_eq!(ana.message().await, (topic(0), "after".to_owned()));
}

/// Commands, pipelines and scripts.
async fn exercise(link: &mut RedisLink) -> Result<(), RedisError> {
    let (a, b) = (key("test", "p1", "a"), key("test", "p1", "b"));
    let (one, two): (u32, u32) = redis::pipe()
        .cmd("SET")
        .arg(&a)
        .arg(1)
        .ignore()
        .cmd("SET")
        .arg(&b)
        .arg(2)
        .ignore()
        .cmd("GET")
        .arg(&a)
        .cmd("GET")
        .arg(&b)
        .query_async(link)
        .await?;
    let sum: u32 =
        redis::Script::new("return redis.call('GET', KEYS[1]) + redis.call('GET', KEYS[2])")
            .key(a)
            .key(b)
            .invoke_async(link)
            .await?;
    assert_eq!((one, two, sum), (1, 2, 3));
    Ok(())
}

#[tokio::test]
async fn the_command_link_works_on_a_cluster() {
    let mut cluster = Cluster::start().await;
    let mut link = RedisLink::connect(&config(&cluster.url())).unwrap();
    exercise(&mut link).await.unwrap();
    let (master, _) = cluster.master_of(&key("test", "p1", "a")).await;
    cluster.masters[master].kill().await;
    assert!(exercise(&mut link).await.is_err());
    cluster.masters[master].restart().await;
    cluster.healthy().await;
    eventually("the link works again", || async { exercise(&mut link.clone()).await.is_ok() })
        .await;
}

#[tokio::test]
async fn the_command_link_leaves_a_silent_connection() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let mut link =
        RedisLink::connect(&config(&format!("redis://127.0.0.1:{}", proxy.port()))).unwrap();
    exercise(&mut link).await.unwrap();
    proxy.black_hole();
    assert!(exercise(&mut link).await.is_err());
    proxy.forward();
    // The old connection stays silent for ever: only a new one can answer.
    eventually("the link works again", || async { exercise(&mut link.clone()).await.is_ok() })
        .await;
    assert!(matches!(RedisLink::connect(&config("local")), Err(BusError::NotRedis)));
}
