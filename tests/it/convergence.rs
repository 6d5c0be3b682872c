//! Offline-first clients converge, whatever is lost, repeated or broken between them and the store.
//!
//! First the engine's parts alone, without sockets: many seeds, each the same run every time. Then the real
//! program with all that is around it.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use syncline::config;
use syncline::store::Store;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::audit::change;
use crate::support::copies::verify;
use crate::support::crowd::PROJECT;
use crate::support::device::Device;
use crate::support::process::{Cluster, Process, log_of, unlimited};
use crate::support::proxy::{Proxy, Way};
use crate::support::raw::authority;
use crate::support::schema::varied;
use crate::support::site::Site;
use crate::support::world::{DEVICES, USERS, World};
use crate::support::{hub, online, postgres};

/// How many seeds a test tries: one that was given, so many as were asked for, or the usual number.
fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let given: Option<u64> = number("SYNCLINE_TEST_SEED");
    let count = number("SYNCLINE_TEST_SEEDS").or(given.map(|_| 1)).unwrap_or(usual);
    let first: u64 = given.unwrap_or_else(|| rand::random::<u64>() >> 1);
    (first..first + count).inspect(|seed| println!("run again with SYNCLINE_TEST_SEED={seed}"))
}

#[tokio::test]
async fn clients_converge_on_sqlite_whatever_the_seed() {
    for seed in seeds(200) {
        World::new(Arc::new(Site::sqlite()), seed).await.run().await;
    }
}

#[tokio::test]
async fn clients_converge_on_postgres_whatever_the_seed() {
    let site = Arc::new(Site::postgres().await);
    site.open().await.close().await;
    for seed in seeds(40) {
        site.forget_logs().await;
        World::new(site.clone(), seed).await.run().await;
    }
}

/// The real program: its instances, and what chaos can break.
struct Field {
    instances: Vec<Process>,
    /// On the way to Redis, then on the way to PostgreSQL, one for each instance.
    links: Vec<Proxy>,
    _around: Box<dyn Any>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_converge_on_three_instances_while_everything_breaks() {
    for seed in seeds(3) {
        let database = postgres::fresh_database().await;
        let server = authority(&database).rsplit_once(':').unwrap().1.parse().unwrap();
        let mut to_store = Vec::new();
        for _ in 0..3 {
            to_store.push(Proxy::start(server).await);
        }
        let started = AtomicUsize::new(0);
        let Cluster { instances, mut links, redis, .. } =
            Cluster::start_on(database.clone(), |config| {
                let link = &to_store[started.fetch_add(1, Ordering::Relaxed)];
                config.store.url =
                    database.replace(&format!(":{server}"), &format!(":{}", link.port()));
                varied(config);
            })
            .await;
        links.append(&mut to_store);
        let field = Field { instances, links, _around: Box::new(redis) };
        let config = config::Store { url: database, ..config::Store::default() };
        play(field, &Store::open(&config).await.unwrap(), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_converge_on_one_instance_with_sqlite_that_is_killed() {
    for seed in seeds(3) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = hub::config(dir.path());
        config.server.shards = 1;
        (config.store.connections, config.limits.catch_ups) = (3, 2);
        unlimited(&mut config);
        varied(&mut config);
        let store = config.store.clone();
        let instances = vec![Process::start(config).await];
        let field = Field { instances, links: Vec::new(), _around: Box::new(dir) };
        play(field, &Store::open(&store).await.unwrap(), seed).await;
    }
}

/// Devices work while everything breaks; once all is whole again they come to rest, and are compared.
async fn play(mut field: Field, store: &Store, seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let urls: Arc<[String]> = field.instances.iter().map(Process::ws).collect();
    let over = CancellationToken::new();
    let mut devices = JoinSet::new();
    for number in 0..DEVICES {
        let device = Device::new(number, USERS, random.random());
        devices.spawn(online::live(device, urls.clone(), over.clone()));
    }
    chaos(&mut field, &mut random).await;
    over.cancel();
    let mut devices = devices.join_all().await;
    // A cursor may stand before what others wrote last.
    let log = log_of(store, PROJECT).await;
    for device in &mut devices {
        for entry in &log[usize::try_from(device.cursor).unwrap()..] {
            device.take_change(&change(entry));
        }
    }
    verify(&devices, store, &log).await;
    store.close().await;
}

/// Breaks something every now and then; in the end all is whole.
async fn chaos(field: &mut Field, random: &mut SmallRng) {
    for _ in 0..12 {
        if field.links.is_empty() || random.random_ratio(1, 4) {
            let instance = random.random_range(0..field.instances.len());
            field.instances[instance].kill().await;
            sleep(Duration::from_millis(random.random_range(0..300))).await;
            field.instances[instance].restart().await;
        } else {
            let link = field.links.choose(random).unwrap();
            match random.random_range(0..5) {
                0 | 1 => link.cut_all(),
                2 => link.swallow(Way::ToClient),
                3 => link.refuse(),
                _ => link.delay(Duration::from_millis(random.random_range(1..40))),
            }
            sleep(Duration::from_millis(random.random_range(50..600))).await;
            link.heal();
        }
        sleep(Duration::from_millis(random.random_range(0..400))).await;
    }
}
