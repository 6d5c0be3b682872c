//! Model clients on the engine's parts alone: a request is read, ordered, decided and committed on a real
//! store, without sockets and tasks between, so that a seed is the same run every time.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use syncline::auth::{Access, Claims, Command, Permit, Roles, authorize};
use syncline::config::{Config, Memberships};
use syncline::id::{ProjectId, Seq};
use syncline::store::{Answer, Batch, LogEntry, PendingOp, Store, StoreError};
use syncline::sync::plan::plan;
use syncline::sync::rules::Rules;
use syncline::sync::submission::{Places, Sent, Submission};

use super::audit::change;
use super::copies::{delta, verify};
use super::crowd::PROJECT;
use super::device::Device;
use super::plan::rules;
use super::process::log_of;
use super::schema::varied;
use super::site::Site;

/// Installations in a run, and how many people they belong to.
pub(crate) const DEVICES: usize = 20;
pub(crate) const USERS: usize = 8;

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
pub(crate) struct World {
    site: Arc<Site>,
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
    pub(crate) async fn new(site: Arc<Site>, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut config = Config::default();
        varied(&mut config);
        let devices: Vec<_> =
            (0..DEVICES).map(|n| Device::new(n, USERS, random.random())).collect();
        let roles = Roles::compile(&config.roles).unwrap();
        let access = Access::new(roles, Memberships::Token);
        let project = PROJECT.parse().unwrap();
        let permits = devices.iter().map(|device| permit(device, &access, &project)).collect();
        Self {
            stores: [site.open().await, site.open().await],
            site,
            rules: rules(&config),
            config,
            project,
            permits,
            devices,
            random,
            now: 1_000_000,
            live: BTreeMap::new(),
        }
    }

    pub(crate) async fn run(mut self) {
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
        verify(&self.devices, &self.stores[1], &log).await;
        for store in &self.stores {
            store.close().await;
        }
    }
}

fn permit(device: &Device, access: &Access, project: &ProjectId) -> Permit {
    let claims = Claims {
        user: device.user.parse().unwrap(),
        projects: BTreeMap::from([(project.clone(), "editor".parse().unwrap())]),
        device: None,
        jti: None,
        issued_at: None,
        expires_at: i64::MAX,
    };
    authorize(&access.grants(&claims), Command::Write(project)).unwrap()
}

fn texts(answers: &[Answer]) -> Vec<&str> {
    answers.iter().map(|answer| answer.verdict().get()).collect()
}
