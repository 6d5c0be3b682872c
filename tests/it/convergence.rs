//! Offline-first clients converge, whatever is lost, repeated or broken between them and the store.
//!
//! First the engine's parts alone, without sockets: many seeds, each the same run every time. Then the real
//! program with all that is around it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use syncline::auth::{Claims, Command, Grants, Permit, Roles, authorize};
use syncline::config::{self, Config};
use syncline::id::{ProjectId, Seq};
use syncline::protocol::conflict::Conflict;
use syncline::store::{
    Answer, Batch, ConflictQuery, DeltaRow, LogEntry, PendingOp, Store, StoreError,
};
use syncline::sync::plan::plan;
use syncline::sync::rules::Rules;
use syncline::sync::submission::{Places, Sent, Submission};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::audit::{audit, change, same};
use crate::support::crowd::PROJECT;
use crate::support::device::{Device, Key, Row};
use crate::support::process::{Cluster, Process, log_of, unlimited};
use crate::support::proxy::{Proxy, Way};
use crate::support::raw::authority;
use crate::support::schema::varied;
use crate::support::site::Site;
use crate::support::{hub, online, postgres};

const DEVICES: usize = 20;
const USERS: usize = 8;

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
        World::new(Site::sqlite(), seed).await.run().await;
    }
}

#[tokio::test]
async fn clients_converge_on_postgres_whatever_the_seed() {
    for seed in seeds(10) {
        World::new(Site::postgres().await, seed).await.run().await;
    }
}

/// One request that reached the hub.
struct Job {
    device: usize,
    sent: Vec<Value>,
    ops: Vec<PendingOp>,
    places: Places,
}

/// What becomes of the requests that would be committed together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Committed, and then the instance dies: no answer leaves it.
    NoAnswer,
    /// The instance dies before the commit.
    NoCommit,
    /// Sent to two instances at once; both answer.
    Twice,
}

/// The engine's parts on a real store, with two handles to it as two instances would have.
struct World {
    site: Site,
    stores: [Store; 2],
    project: ProjectId,
    config: Config,
    rules: Rules,
    permits: Vec<Permit>,
    devices: Vec<Device>,
    random: SmallRng,
    now: i64,
    /// The live stream: what each commit passed on.
    live: BTreeMap<u64, LogEntry>,
}

impl World {
    async fn new(site: Site, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut config = Config::default();
        varied(&mut config);
        let devices: Vec<_> =
            (0..DEVICES).map(|n| Device::new(n, USERS, random.random())).collect();
        let (roles, project) = (Roles::compile(&config.roles).unwrap(), PROJECT.parse().unwrap());
        let permits = devices.iter().map(|device| permit(device, &roles, &project)).collect();
        Self {
            stores: [site.open().await, site.open().await],
            site,
            rules: Rules::new(&config),
            config,
            project,
            permits,
            devices,
            random,
            now: 1_000_000,
            live: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        for _ in 0..30 {
            self.now += self.random.random_range(1..2_000);
            for _ in 0..self.random.random_range(1..12) {
                let device = self.random.random_range(0..DEVICES);
                self.devices[device].act(self.now);
            }
            self.requests().await;
            for _ in 0..self.random.random_range(0..4) {
                let device = self.random.random_range(0..DEVICES);
                self.pull(device).await;
            }
            if self.random.random_ratio(1, 20) {
                let instance = self.random.random_range(0..2);
                self.stores[instance].close().await;
                self.stores[instance] = self.site.open().await;
            }
        }
        self.quiesce().await;
        self.verify().await;
    }

    /// Some devices are online at the same time, and their requests meet in one commit.
    async fn requests(&mut self) {
        let mut online: Vec<usize> = (0..DEVICES).collect();
        online.shuffle(&mut self.random);
        online.truncate(self.random.random_range(1..8));
        let fates = [Fate::Answered, Fate::Answered, Fate::NoAnswer, Fate::NoCommit, Fate::Twice];
        let fate = *fates.choose(&mut self.random).unwrap();
        let jobs = online.into_iter().filter_map(|device| {
            let again = self.random.random_ratio(1, 12);
            let device_ = &mut self.devices[device];
            let sent = if again { device_.old_batch() } else { device_.batch() };
            (!sent.is_empty()).then_some((device, sent))
        });
        let jobs: Vec<_> = jobs.collect();
        self.commit(jobs, fate).await;
    }

    async fn commit(&mut self, requests: Vec<(usize, Vec<Value>)>, fate: Fate) {
        let jobs: Vec<Job> =
            requests.into_iter().map(|(device, sent)| self.read(device, sent)).collect();
        if jobs.is_empty() {
            return;
        }
        let ops: Vec<PendingOp> = jobs.iter().flat_map(|job| job.ops.clone()).collect();
        let instance = self.random.random_range(0..2);
        if fate == Fate::NoCommit {
            return self.fail(instance, &ops).await;
        }
        let answers = if fate == Fate::Twice {
            let (one, two) = tokio::join!(self.decide(0, &ops), self.decide(1, &ops));
            self.passed_on(one.1);
            self.passed_on(two.1);
            assert!(
                texts(&one.0) == texts(&two.0),
                "two instances answered the same request differently"
            );
            one.0
        } else {
            let (answers, entries) = self.decide(instance, &ops).await;
            self.passed_on(entries);
            answers
        };
        if fate != Fate::NoAnswer {
            self.answer(jobs, answers);
        }
    }

    fn read(&self, device: usize, sent: Vec<Value>) -> Job {
        let from = &self.devices[device];
        let raws: Vec<_> =
            sent.iter().map(|op| serde_json::value::to_raw_value(op).unwrap()).collect();
        let request = Sent { raws: &raws, client: &from.client, clock_offset: -from.skew };
        let Submission { ops, places, .. } =
            Submission::read(&self.permits[device], request, &self.config.limits, &self.rules);
        Job { device, sent, ops, places }
    }

    /// Commits on an instance, again while it has to.
    async fn decide(&self, instance: usize, ops: &[PendingOp]) -> (Vec<Answer>, Vec<LogEntry>) {
        let batches = [Batch { project: &self.project, ops }];
        loop {
            let decide =
                |snapshot: &_, ops: &[PendingOp], now| plan(snapshot, ops, now, &self.rules);
            match self.stores[instance].commit(&batches, self.now, &decide).await {
                Ok(mut committed) => {
                    let committed = committed.remove(0);
                    return (committed.answers, committed.entries);
                }
                Err(error) => assert!(error.retryable(), "{error}"),
            }
        }
    }

    /// Everything but the commit.
    async fn fail(&self, instance: usize, ops: &[PendingOp]) {
        let batches = [Batch { project: &self.project, ops }];
        let decide = |snapshot: &_, ops: &[PendingOp], now| {
            let mut effects = plan(snapshot, ops, now, &self.rules);
            effects.answers.pop();
            effects
        };
        let failed = self.stores[instance].commit(&batches, self.now, &decide).await;
        assert!(matches!(failed, Err(StoreError::Plan(_))), "{failed:?}");
    }

    fn passed_on(&mut self, entries: Vec<LogEntry>) {
        for entry in entries {
            let known = self.live.insert(entry.seq.0, entry);
            assert!(known.is_none(), "passed on twice: {known:?}");
        }
    }

    fn answer(&mut self, jobs: Vec<Job>, answers: Vec<Answer>) {
        let mut answers = answers.into_iter();
        for Job { device, sent, ops, places } in jobs {
            let verdicts = places.fill(answers.by_ref().take(ops.len()).collect());
            let texts: Vec<_> = verdicts.iter().map(|verdict| verdict.get().to_owned()).collect();
            self.devices[device].answered(&sent, &texts);
        }
    }

    /// A device catches up: by a delta, or by the log.
    async fn pull(&mut self, device: usize) {
        let store = &self.stores[self.random.random_range(0..2)];
        let limit = self.random.random_range(1..20);
        let device = &mut self.devices[device];
        if self.random.random() {
            let page = store.page(&self.project, Seq(device.cursor), limit, 1 << 20).await.unwrap();
            for entry in page.entries {
                device.take_change(&change(&entry));
            }
            return;
        }
        let mut after = Seq(device.cursor);
        loop {
            let page = delta(store, &self.project, after, limit).await;
            device.take_page(&page);
            after = Seq(page["next"].as_u64().unwrap());
            if page["more"] == false {
                return;
            }
        }
    }

    /// Everyone comes online and stays until there is nothing left to say.
    async fn quiesce(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "they never come to rest");
            for device in 0..DEVICES {
                while self.devices[device].decide() {}
                let sent = self.devices[device].batch();
                if !sent.is_empty() {
                    self.commit(vec![(device, sent)], Fate::Answered).await;
                }
            }
            if self.devices.iter().all(Device::is_done) {
                break;
            }
        }
        let head = self.stores[0].open_project(&self.project).await.unwrap().head;
        for device in 0..DEVICES {
            while self.devices[device].cursor < head.0 {
                self.pull(device).await;
            }
        }
    }

    async fn verify(self) {
        let log = log_of(&self.stores[0], PROJECT).await;
        let live: Vec<_> = self.live.values().map(change).collect();
        let logged: Vec<_> = log.iter().map(change).collect();
        assert!(live == logged, "the live stream is not the log");
        let conflicts = conflict_log(&self.stores[1], &self.project).await;
        verify(&self.devices, &self.stores[1], &log, &conflicts).await;
        for store in &self.stores {
            store.close().await;
        }
    }
}

fn permit(device: &Device, roles: &Roles, project: &ProjectId) -> Permit {
    let claims = Claims {
        user: device.user.parse().unwrap(),
        projects: BTreeMap::from([(project.clone(), "editor".parse().unwrap())]),
        device: None,
        jti: None,
        issued_at: None,
        expires_at: i64::MAX,
    };
    authorize(&Grants::resolve(&claims, roles), Command::Write(project)).unwrap()
}

fn texts(answers: &[Answer]) -> Vec<&str> {
    answers.iter().map(|answer| answer.verdict().get()).collect()
}

/// One page of a delta, as it stands on the wire.
async fn delta(store: &Store, project: &ProjectId, after: Seq, limit: u32) -> Value {
    let page = store.delta(project, after, limit, 1 << 20).await.unwrap();
    let row = |row: &DeltaRow| {
        json!({ "entity": { "type": row.key.kind, "id": row.key.id }, "version": row.version,
            "deleted": row.deleted, "fields": row.fields })
    };
    let last = page.rows.last().map_or(page.head, |row| row.version);
    let rows: Vec<_> = page.rows.iter().map(row).collect();
    json!({ "changes": rows, "next": last, "more": last < page.head })
}

async fn conflict_log(store: &Store, project: &ProjectId) -> Vec<Conflict> {
    let mut all: Vec<Conflict> = Vec::new();
    loop {
        let before = all.last().map(|conflict| conflict.id);
        let query = ConflictQuery { before, limit: 200, ..ConflictQuery::default() };
        let page = store.conflicts(project, &query).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// All copies are the store, by whichever way it is read, and all that was said is true.
async fn verify(devices: &[Device], store: &Store, log: &[LogEntry], conflicts: &[Conflict]) {
    let replayed = audit(devices, log, conflicts);
    let mut fresh = Device::new(0, 1, 0);
    let project = PROJECT.parse().unwrap();
    let mut after = Seq(0);
    loop {
        let page = delta(store, &project, after, 50).await;
        fresh.take_page(&page);
        after = Seq(page["next"].as_u64().unwrap());
        if page["more"] == false {
            break;
        }
    }
    let whole: &BTreeMap<Key, Row> = &fresh.rows;
    assert!(*whole == replayed, "a delta from 0 is not what the log leads to");
    same(devices, whole);
    let open =
        conflicts.iter().filter(|c| c.resolved_at.is_none() && c.outcome.as_str() == "conflict");
    assert_eq!(open.count(), 0, "a conflict was never resolved");
    let (decided, outcomes) = tally(devices);
    println!("{} changes of {decided} operations: {outcomes:?}", log.len());
}

fn tally(devices: &[Device]) -> (usize, BTreeMap<String, usize>) {
    let mut outcomes = BTreeMap::new();
    let decided = devices.iter().flat_map(|device| &device.decided);
    for (_, verdict) in decided.clone() {
        let verdict: Value = serde_json::from_str(verdict).unwrap();
        let code = verdict["code"].as_str().unwrap_or("");
        let outcome = format!("{} {code}", verdict["outcome"].as_str().unwrap());
        *outcomes.entry(outcome.trim().to_owned()).or_default() += 1;
    }
    (decided.count(), outcomes)
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
        (config.server.shards, config.store.connections) = (1, 3);
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
    let conflicts = conflict_log(store, &PROJECT.parse().unwrap()).await;
    verify(&devices, store, &log, &conflicts).await;
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
