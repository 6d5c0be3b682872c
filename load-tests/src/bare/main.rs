//! The database's own limit: the rows the hub writes for the operations of `loadgen writes`, into the hub's own
//! tables, and nothing else.
//!
//! One connection, one statement a table, one commit a batch. The operations come from as many writers, in
//! runs as long, as in the scenario it stands beside: where in an index a row belongs decides how many pages a
//! commit writes. What a hub costs above it is receiving, checking, reading, deciding and answering.

mod ops;
mod postgres;
mod sqlite;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use sqlx::{PgConnection, SqliteConnection};

use ops::{Row, Writers};

#[derive(Debug, Parser)]
#[command(about = "The database's own limit; prints one JSON line", version)]
struct Options {
    /// `sqlite:PATH` or `postgres://…` of a database that `syncline migrate` has just made ready.
    #[arg(long)]
    url: String,
    /// The most operations in one commit; the hub's `store.group_ops`.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Writers that take turns.
    #[arg(long, default_value_t = 512)]
    writers: usize,
    /// Operations of a writer before it is the next one's turn.
    #[arg(long, default_value_t = 1)]
    run: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Bytes of text in one operation.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    #[arg(long, value_enum, default_value_t = Rows::All)]
    rows: Rows,
}

/// Which rows an operation leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// Its entry in the log.
    Log,
    /// The entity and the verdict as well, and each request's in the log of requests.
    All,
}

/// A connection to either.
enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    async fn open(url: &str) -> Result<Self> {
        Ok(match url.strip_prefix("sqlite:") {
            Some(path) => Self::Sqlite(sqlite::open(path).await?),
            None => Self::Postgres(postgres::open(url).await?),
        })
    }

    /// Commits what requests of `run` operations each lead to.
    async fn commit(&mut self, batch: &[Row], run: usize, rows: Rows) -> Result<()> {
        match self {
            Self::Sqlite(connection) => sqlite::commit(connection, batch, run, rows).await,
            Self::Postgres(connection) => postgres::commit(connection, batch, run, rows).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let o = Options::parse();
    let turns = o.batch / o.run.max(1);
    if turns == 0 || o.run == 0 || turns > o.writers {
        bail!("`--run` is 1 to `--batch`, and a batch is of different writers: add `--writers`");
    }
    let mut database = Database::open(&o.url).await?;
    let mut writers = Writers::new(o.writers, o.bytes);
    let (mut head, mut commits) = (0, 0_u64);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(o.seconds) {
        let batch = writers.batch(turns, o.run, head);
        database.commit(&batch, o.run, o.rows).await?;
        head = batch.last().map_or(head, |row| row.seq);
        commits += 1;
    }
    let wall = began.elapsed().as_secs_f64();
    let line = json!({
        "scenario": "bare", "rows": format!("{:?}", o.rows).to_lowercase(), "batch": o.batch,
        "writers": o.writers, "run": o.run, "bytes": o.bytes, "ops": head, "commits": commits,
        "wall_s": wall, "ops_per_s": (head as f64 / wall).round(),
    });
    println!("{line}");
    Ok(())
}
