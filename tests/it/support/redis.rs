//! Private Redis servers: on free loopback ports, in temporary directories, gone with the test.

use std::net::TcpListener;
use std::process::Stdio;

use redis::{FromRedisValue, RedisResult};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::eventually;

/// A `redis-server` of its own, killed when dropped.
pub(crate) struct Server {
    port: u16,
    options: Vec<String>,
    dir: TempDir,
    process: Option<Child>,
}

impl Server {
    /// A single server, ready.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(options: &[String]) -> Self {
        let mut server = Self {
            port: free_port(),
            options: options.to_vec(),
            dir: TempDir::new().unwrap(),
            process: None,
        };
        server.restart().await;
        server
    }

    /// Starts the server again, on its port and with its state.
    pub(crate) async fn restart(&mut self) {
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.dir.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
        let server = &*self;
        eventually("redis-server answers", || async { server.ask::<String>("PING").await.is_ok() })
            .await;
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A directory that is there as long as the server.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command, given as one line.
    pub(crate) async fn ask<T: FromRedisValue>(&self, line: &str) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut connection).await
    }
}

/// A Cluster of three masters without replicas.
pub(crate) struct Cluster {
    pub(crate) masters: Vec<Server>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let mut masters = Vec::new();
        for _ in 0..3 {
            let options = [
                ("--cluster-enabled", "yes".to_owned()),
                ("--cluster-node-timeout", "1000".to_owned()),
                ("--cluster-port", free_port().to_string()),
            ];
            let options: Vec<String> =
                options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
            masters.push(Server::start_with(&options).await);
        }
        let created = Command::new("redis-cli")
            .args(["--cluster", "create", "--cluster-yes"])
            .args(masters.iter().map(|master| format!("127.0.0.1:{}", master.port)))
            .output()
            .await
            .unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { masters };
        cluster.healthy().await;
        cluster
    }

    /// Waits until every master finds the Cluster whole.
    pub(crate) async fn healthy(&self) {
        for master in &self.masters {
            eventually("the Cluster is whole", || async {
                let info: RedisResult<String> = master.ask("CLUSTER INFO").await;
                info.is_ok_and(|info| {
                    info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
                })
            })
            .await;
        }
    }

    pub(crate) fn url(&self) -> String {
        let seeds: Vec<_> =
            self.masters.iter().map(|master| format!("127.0.0.1:{}", master.port)).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// Moves an empty hash slot to another master, and returns when all agree.
    pub(crate) async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (from, to) = (&self.masters[from], &self.masters[to]);
        let from_id: String = from.ask("CLUSTER MYID").await.unwrap();
        let to_id: String = to.ask("CLUSTER MYID").await.unwrap();
        let set = |server, state, id| async move {
            let line = format!("CLUSTER SETSLOT {slot} {state} {id}");
            let () = Server::ask(server, &line).await.unwrap();
        };
        set(to, "IMPORTING", &from_id).await;
        set(from, "MIGRATING", &to_id).await;
        set(to, "NODE", &to_id).await;
        set(from, "NODE", &to_id).await;
    }

    /// The number of the master that serves a channel, and the channel's slot.
    pub(crate) async fn master_of(&self, channel: &str) -> (usize, u16) {
        let slot: u16 = self.masters[0].ask(&format!("CLUSTER KEYSLOT {channel}")).await.unwrap();
        type Node = (String, u16, String, Vec<String>);
        let slots: Vec<(u16, u16, Node)> = self.masters[0].ask("CLUSTER SLOTS").await.unwrap();
        let (_, _, (_, port, ..)) =
            slots.into_iter().find(|(first, last, _)| (first..=last).contains(&&slot)).unwrap();
        (self.masters.iter().position(|master| master.port == port).unwrap(), slot)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
