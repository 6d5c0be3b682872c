//! A private nginx with the files of `deploy/nginx`, as they are shipped but for addresses and paths; gone with
//! the test.

use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::eventually;
use super::process::free_port;

/// A running nginx; stopped when dropped, its workers with it.
pub(crate) struct Nginx {
    port: u16,
    dir: TempDir,
    process: Child,
}

impl Nginx {
    /// In front of these instances, at most as many as `instances.conf` names.
    pub(crate) async fn start(instances: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        configure(dir.path(), port, instances);
        let log = dir.path().join("error.log").display().to_string();
        let mut globals = format!("daemon off; pid {log}.pid; error_log {log} info;");
        if is_root() {
            globals.push_str(" user root;"); // else its workers may not enter the directory
        }
        let process = Command::new(program())
            .args(["-e", &log, "-g", &globals, "-c"])
            .arg(dir.path().join("nginx.conf"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { port, dir, process };
        eventually("nginx listens", || async { TcpStream::connect(("127.0.0.1", port)).is_ok() })
            .await;
        nginx
    }

    /// `ws://…/v1/ws` for an installation.
    pub(crate) fn ws(&self, client: &str) -> String {
        format!("ws://127.0.0.1:{}/v1/ws?client={client}", self.port)
    }

    /// `http://…` and a path.
    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Nginx {
    /// Workers outlive a master that is killed; one that is asked stops them.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["error.log", "access.log"] {
                let text = fs::read_to_string(self.dir.path().join(log)).unwrap_or_default();
                eprintln!("---- nginx, {log}:\n{text}");
            }
        }
        if let Some(pid) = self.process.id() {
            let _gone_already = std::process::Command::new("kill").arg(pid.to_string()).status();
        }
    }
}

fn configure(dir: &Path, port: u16, instances: &[SocketAddr]) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx");
    let replaced = |name: &str, pairs: &[(&str, String)]| {
        let mut text = fs::read_to_string(shipped.join(name)).unwrap();
        for (from, to) in pairs {
            assert!(text.contains(from), "{name} has no {from}");
            text = text.replace(from, to);
        }
        fs::write(dir.join(name), text).unwrap();
    };
    let place = dir.display().to_string();
    let mut http = "http {\n".to_owned();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(http, "    {kind}_temp_path {place}/{kind};").unwrap();
    }
    replaced("nginx.conf", &[("http {\n", http)]);
    replaced("syncline.conf", &[]);
    replaced("locations.conf", &[]);
    replaced(
        "plain.conf",
        &[("listen 8080", format!("listen 127.0.0.1:{port}")), ("/var/log/nginx", place)],
    );
    let named = fs::read_to_string(shipped.join("instances.conf")).unwrap();
    let servers = named.lines().filter(|line| line.starts_with("server "));
    let servers = instances.iter().zip(servers).enumerate().map(|(n, (address, line))| {
        let placeholder = format!("127.0.0.1:{}", 8081 + n);
        assert!(line.contains(&placeholder), "{line}");
        line.replace(&placeholder, &address.to_string()) + "\n"
    });
    fs::write(dir.join("instances.conf"), servers.collect::<String>()).unwrap();
}

fn program() -> String {
    std::env::var("SYNCLINE_TEST_NGINX").unwrap_or_else(|_| {
        // Debian keeps it off most people's PATH.
        let debians = "/usr/sbin/nginx";
        if Path::new(debians).exists() { debians.into() } else { "nginx".into() }
    })
}

fn is_root() -> bool {
    let id = std::process::Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}
