//! A private PostgreSQL, started once for the test process and stopped when that ends, however it ends:
//! a shell waits for its standard input to close, and only the test process holds the other end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

const KEEPER: &str = r#"
    PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)"
    directory=$(mktemp -d "${TMPDIR:-/tmp}/syncline-postgres-XXXXXX") && cd "$directory" || exit 1
    as_owner() {
        if [ "$(id -u)" = 0 ]; then
            setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
        else
            "$@"
        fi
    }
    if [ "$(id -u)" = 0 ]; then chown postgres "$directory"; fi
    as_owner initdb -D data -U postgres -A trust -E UTF8 --no-locale --no-sync >initdb.log 2>&1 &&
    as_owner pg_ctl -D data -w -l server.log -o "-p $1 -k '' -h 127.0.0.1 -c max_connections=200 -c fsync=off -c full_page_writes=off" start >/dev/null 2>&1 &&
    echo ready || { cat *.log; rm -rf "$directory"; exit 1; }
    while read -r _; do
        as_owner pg_ctl -D data -w -m immediate restart >/dev/null 2>&1 && echo ready
    done
    as_owner pg_ctl -D data -w -m immediate stop >/dev/null 2>&1
    rm -rf "$directory"
"#;

/// A server; stopped when dropped, because its keeper's standard input closes then.
pub(crate) struct Server {
    port: u16,
    keeper: Child,
    said: BufReader<ChildStdout>,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start_now);

impl Server {
    fn start_now() -> Self {
        (0..5).find_map(|_| start()).expect("PostgreSQL must be installed, see its output above")
    }

    /// A server of its own, for a test that breaks it.
    pub(crate) async fn start() -> Self {
        tokio::task::spawn_blocking(Self::start_now).await.unwrap()
    }

    /// Stops every process of the server without a word to its clients, and starts it again.
    pub(crate) async fn restart(self) -> Self {
        tokio::task::spawn_blocking(move || {
            let mut server = self;
            server.keeper.stdin.as_mut().unwrap().write_all(b"restart\n").unwrap();
            let mut line = String::new();
            server.said.read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n", "PostgreSQL did not come back");
            server
        })
        .await
        .unwrap()
    }

    /// The URL of the database there always is.
    pub(crate) fn url(&self) -> String {
        url_at(self.port, "postgres")
    }
}

/// None if it did not start: somebody may have taken the port in between.
fn start() -> Option<Server> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut keeper = Command::new("sh")
        .args(["-c", KEEPER, "keeper", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(keeper.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    if line == "ready\n" {
        return Some(Server { port, keeper, said });
    }
    said.read_to_string(&mut line).unwrap();
    eprintln!("{line}");
    keeper.wait().unwrap();
    None
}

fn url_at(port: u16, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/{database}")
}

fn url(database: &str) -> String {
    url_at(SERVER.port, database)
}

/// The URL of a database nobody else uses.
pub(crate) async fn fresh_database() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let admin = tokio::task::spawn_blocking(|| url("postgres")).await.unwrap();
    let mut connection = PgConnection::connect(&admin).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    url(&name)
}

/// Puts the database's clock off the instances' by this much, for whoever connects after the first time; whoever did
/// sees it move.
pub(crate) async fn skew(database: &str, by_ms: i64) {
    let mut db = PgConnection::connect(database).await.unwrap();
    let name = database.rsplit_once('/').unwrap().1;
    for statement in [
        "CREATE SCHEMA IF NOT EXISTS skewed".to_owned(),
        format!(
            "CREATE OR REPLACE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql
            AS $$ SELECT pg_catalog.clock_timestamp() + {by_ms} * interval '1 ms' $$"
        ),
        format!("ALTER DATABASE {name} SET search_path = skewed, public, pg_catalog"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut db).await.unwrap();
    }
}
