//! The real program, run as operators run it: several instances with PostgreSQL and Redis, each with a
//! chaos proxy of its own on the way to Redis. All of it ends with the test.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use syncline::config::{Config, LogFormat};
use syncline::id::ProjectId;
use syncline::store::{LogEntry, Store};
use syncline::{config, id};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::proxy::Proxy;
use super::{DEADLINE, eventually, hub, postgres, redis};

/// One instance, running or not; killed when dropped.
pub(crate) struct Process {
    config: Config,
    dir: TempDir,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    http: reqwest::Client,
}

impl Process {
    /// Runs the program with this configuration, on free ports, and waits until it is ready.
    pub(crate) async fn start(mut config: Config) -> Self {
        config.server.listen = ([127, 0, 0, 1], free_port()).into();
        config.server.admin_listen = ([127, 0, 0, 1], free_port()).into();
        config.log.format = LogFormat::Json;
        config.log.filter = std::env::var("SYNCLINE_TEST_LOG").unwrap_or(config.log.filter);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("syncline.toml"), toml::to_string(&config).unwrap())
            .unwrap();
        // Connections are not kept: the instance they lead to may be another process by then.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let mut process = Self { config, dir, child: None, log: Arc::default(), http };
        process.restart().await;
        process
    }

    /// Runs the program again, on the same ports.
    pub(crate) async fn restart(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        let mut child = Command::new(env!("CARGO_BIN_EXE_syncline"))
            .arg("--config")
            .arg(self.dir.path().join("syncline.toml"))
            .arg("serve")
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = self.log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        self.child = Some(child);
        let ready = async {
            while self.ready().await != Some(true) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = timeout(DEADLINE, ready).await.is_ok();
        assert!(in_time, "the program did not become ready:\n{}", self.log());
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        self.child.take().expect("it runs").kill().await.unwrap();
    }

    /// Asks the program to stop, as an upgrade does.
    pub(crate) async fn terminate(&self) {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    }

    /// Waits until the program ended by itself.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let exit = timeout(self.config.server.drain_deadline + DEADLINE, child.wait()).await;
        exit.unwrap_or_else(|_| panic!("it does not end:\n{}", self.log())).unwrap()
    }

    /// What `/health/ready` says; `None` if nobody answers.
    pub(crate) async fn ready(&self) -> Option<bool> {
        let answer = self.http.get(self.operators("/health/ready")).send().await.ok()?;
        Some(answer.status().is_success())
    }

    /// One value of `/metrics`, by its name and labels as they are exposed.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.http.get(self.operators("/metrics")).send().await.unwrap().text().await;
        let text = text.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("there is no metric {name}")).parse().unwrap()
    }

    /// `ws://…/v1/ws`.
    pub(crate) fn ws(&self) -> String {
        format!("ws://{}/v1/ws", self.config.server.listen)
    }

    /// `http://…` of the public listener.
    pub(crate) fn http(&self) -> String {
        format!("http://{}", self.config.server.listen)
    }

    fn operators(&self, path: &str) -> String {
        format!("http://{}{path}", self.config.server.admin_listen)
    }

    /// What the program has logged so far, over all its runs.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {} logged:\n{}", self.config.server.listen, self.log());
        }
    }
}

/// Below the ports the kernel gives to outgoing connections, so that an instance finds its own free when
/// it comes back.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::rng().random_range(10_000..30_000);
        let free = TcpListener::bind(("127.0.0.1", port)).is_ok();
        // Nobody else's either who is about to listen.
        if free && GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

/// Several instances of one hub.
pub(crate) struct Cluster {
    pub(crate) instances: Vec<Process>,
    /// What stands between each instance and Redis.
    pub(crate) links: Vec<Proxy>,
    pub(crate) redis: redis::Server,
    store: config::Store,
}

impl Cluster {
    /// Three instances on a database of their own, each configured a little differently from the default.
    pub(crate) async fn start(change: impl Fn(&mut Config)) -> Self {
        Self::start_on(postgres::fresh_database().await, change).await
    }

    /// The same, on this database.
    pub(crate) async fn start_on(store_url: String, change: impl Fn(&mut Config)) -> Self {
        let redis = redis::Server::start().await;
        let mut cluster = Self {
            instances: Vec::new(),
            links: Vec::new(),
            redis,
            store: config::Store::default(),
        };
        for _ in 0..3 {
            let link = Proxy::start(cluster.redis.port()).await;
            let mut config = hub::config(cluster.redis.dir());
            config.store.url = store_url.clone();
            (config.store.connections, config.limits.catch_ups) = (3, 2);
            config.server.shards = 1;
            config.bus.url = format!("redis://127.0.0.1:{}", link.port());
            config.bus.probe_interval = Duration::from_millis(200);
            config.bus.head_poll = Duration::from_secs(1);
            unlimited(&mut config);
            change(&mut config);
            cluster.store = config.store.clone();
            cluster.links.push(link);
            cluster.instances.push(Process::start(config).await);
        }
        cluster.linked().await;
        cluster
    }

    /// Waits until every instance hears the others.
    pub(crate) async fn linked(&self) {
        for instance in &self.instances {
            eventually("the bus link is up", || async {
                instance.metric("syncline_bus_link_up").await > 0.0
            })
            .await;
        }
    }

    /// The addresses of all instances.
    pub(crate) fn urls(&self) -> Arc<[String]> {
        self.instances.iter().map(Process::ws).collect()
    }

    /// A handle to the store, beside the instances'.
    pub(crate) async fn store(&self) -> Store {
        Store::open(&self.store).await.unwrap()
    }

    /// The sum of a metric over all instances.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for instance in &self.instances {
            sum += instance.metric(name).await;
        }
        sum
    }
}

/// Takes the limits per second away: a crowd of tests writes as fast as it can.
pub(crate) fn unlimited(config: &mut Config) {
    let limits = &mut config.limits;
    for rate in [
        &mut limits.ops_per_second,
        &mut limits.frames_per_second,
        &mut limits.user_ops_per_second,
        &mut limits.presence_per_second,
    ] {
        *rate = 1_000_000;
    }
}

/// The whole log of a project.
pub(crate) async fn log_of(store: &Store, project: &str) -> Vec<LogEntry> {
    let project: ProjectId = project.parse().unwrap();
    let mut log: Vec<LogEntry> = Vec::new();
    loop {
        let after = log.last().map_or(id::Seq::ZERO, |entry| entry.seq);
        let page = store.page(&project, after, 1000, 8 << 20).await.unwrap();
        if page.entries.is_empty() {
            return log;
        }
        log.extend(page.entries);
    }
}
