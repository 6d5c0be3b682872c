//! The database's own limit: the rows a hub has to write for each operation, in batches, and nothing else.
//!
//! One connection, one statement a table, one commit a batch, as many bytes as the hub writes for the
//! operations of `loadgen writes`; half of them new entities, half updates of one. What a hub costs above it
//! is checking, deciding and answering.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

/// One text column after another, and the two numbers.
const TABLES: &str = "
    CREATE TABLE bare_head (project TEXT PRIMARY KEY, head BIGINT NOT NULL);
    INSERT INTO bare_head VALUES ('bench', 0);
    CREATE TABLE bare_log (project TEXT, seq BIGINT, id TEXT, patch TEXT, who TEXT, op_id TEXT,
        PRIMARY KEY (project, seq));
    CREATE TABLE bare_state (project TEXT, id TEXT, version BIGINT, data TEXT, stamps TEXT,
        PRIMARY KEY (project, id));
    CREATE TABLE bare_verdict (project TEXT, op_id TEXT, hash TEXT, verdict TEXT, who TEXT,
        PRIMARY KEY (project, op_id));";

#[derive(Debug, Parser)]
#[command(about = "The database's own limit; prints one JSON line", version)]
struct Options {
    /// `sqlite:PATH` of a new file, or `postgres://…` of an empty database.
    #[arg(long)]
    url: String,
    /// Operations in one commit.
    #[arg(long, default_value_t = 256)]
    batch: usize,
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
    /// The entity and the verdict as well.
    All,
}

/// The columns of one batch.
#[derive(Debug, Default)]
struct Batch {
    seq: Vec<i64>,
    id: Vec<String>,
    op_id: Vec<String>,
    patch: Vec<String>,
    data: Vec<String>,
    stamps: Vec<String>,
    hash: Vec<String>,
    verdict: Vec<String>,
    who: Vec<String>,
}

impl Batch {
    fn new(head: i64, o: &Options) -> Self {
        let mut batch = Self::default();
        let padding = "x".repeat(o.bytes);
        for seq in head + 1..=head + i64::try_from(o.batch).unwrap_or(i64::MAX) {
            let op_id = format!("18c5d2a1f3b4c5d6-{seq:08}");
            // Every other operation updates what the one before created.
            let id = format!("e18c5d2a1f3b4c5d6-{:08}", seq - seq % 2);
            let data = json!({ "n": seq, "op": seq, "pad": padding }).to_string();
            let stamp = json!([seq, "u0", op_id, 1_764_000_000_000_u64]);
            let stamps = match seq % 2 {
                0 => json!({ "": stamp }),
                _ => json!({ "": stamp, "n": stamp, "op": stamp, "pad": stamp }),
            };
            let verdict = json!({
                "op_id": op_id, "outcome": "applied", "id": id, "seq": seq, "version": seq,
            });
            batch.seq.push(seq);
            batch.patch.push(data.clone());
            batch.data.push(data);
            batch.stamps.push(stamps.to_string());
            batch.verdict.push(verdict.to_string());
            batch.hash.push("0123456789abcdef0123456789abcdef".to_owned());
            batch.who.push("u0".to_owned());
            batch.id.push(id);
            batch.op_id.push(op_id);
        }
        batch
    }

    /// The last state of each entity: a statement may touch a row once.
    fn states(&self) -> Vec<usize> {
        let last = |at: &usize| self.id.get(at + 1) != Some(&self.id[*at]);
        (0..self.seq.len()).filter(last).collect()
    }
}

const HEAD: &str = "UPDATE bare_head SET head = $1 WHERE project = 'bench'";
/// What follows the rows of `bare_state`.
const UPSERT: &str = "ON CONFLICT (project, id) DO UPDATE SET version = excluded.version,
    data = excluded.data, stamps = excluded.stamps";

async fn postgres(c: &mut PgConnection, b: &Batch, rows: Rows) -> Result<()> {
    let mut tx = c.begin().await?;
    sqlx::query("SELECT head FROM bare_head WHERE project = 'bench' FOR UPDATE")
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO bare_log SELECT 'bench', * FROM unnest($1::bigint[], $2::text[], $3::text[],
             $4::text[], $5::text[])",
    )
    .bind(&b.seq)
    .bind(&b.id)
    .bind(&b.patch)
    .bind(&b.who)
    .bind(&b.op_id)
    .execute(&mut *tx)
    .await?;
    sqlx::query(HEAD).bind(b.seq.last()).execute(&mut *tx).await?;
    if rows == Rows::All {
        let states = b.states();
        let of =
            |column: &[String]| states.iter().map(|at| column[*at].clone()).collect::<Vec<_>>();
        let upsert = format!(
            "INSERT INTO bare_state SELECT 'bench', * FROM unnest($1::text[], $2::bigint[],
                 $3::text[], $4::text[]) {UPSERT}"
        );
        sqlx::query(sqlx::AssertSqlSafe(upsert))
            .bind(of(&b.id))
            .bind(states.iter().map(|at| b.seq[*at]).collect::<Vec<_>>())
            .bind(of(&b.data))
            .bind(of(&b.stamps))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO bare_verdict SELECT 'bench', * FROM unnest($1::text[], $2::text[],
                 $3::text[], $4::text[])",
        )
        .bind(&b.op_id)
        .bind(&b.hash)
        .bind(&b.verdict)
        .bind(&b.who)
        .execute(&mut *tx)
        .await?;
    }
    Ok(tx.commit().await?)
}

async fn sqlite(c: &mut SqliteConnection, b: &Batch, rows: Rows) -> Result<()> {
    let mut tx = c.begin_with("BEGIN IMMEDIATE").await?;
    let all = 0..b.seq.len();
    let log: Vec<_> =
        all.clone().map(|i| (b.seq[i], &b.id[i], &b.patch[i], &b.who[i], &b.op_id[i])).collect();
    sqlx::query(
        "INSERT INTO bare_log SELECT 'bench', value->>0, value->>1, value->>2, value->>3, value->>4
         FROM json_each($1)",
    )
    .bind(serde_json::to_string(&log)?)
    .execute(&mut *tx)
    .await?;
    sqlx::query(HEAD).bind(b.seq.last()).execute(&mut *tx).await?;
    if rows == Rows::All {
        let states = b.states();
        let state = |i: &usize| (&b.id[*i], b.seq[*i], &b.data[*i], &b.stamps[*i]);
        let states: Vec<_> = states.iter().map(state).collect();
        let upsert = format!(
            "INSERT INTO bare_state SELECT 'bench', value->>0, value->>1, value->>2, value->>3
             FROM json_each($1) WHERE true {UPSERT}"
        );
        sqlx::query(sqlx::AssertSqlSafe(upsert))
            .bind(serde_json::to_string(&states)?)
            .execute(&mut *tx)
            .await?;
        let verdict = |i: usize| (&b.op_id[i], &b.hash[i], &b.verdict[i], &b.who[i]);
        let verdicts: Vec<_> = all.map(verdict).collect();
        sqlx::query(
            "INSERT INTO bare_verdict SELECT 'bench', value->>0, value->>1, value->>2, value->>3
             FROM json_each($1)",
        )
        .bind(serde_json::to_string(&verdicts)?)
        .execute(&mut *tx)
        .await?;
    }
    Ok(tx.commit().await?)
}

/// A connection to either.
enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    async fn open(url: &str) -> Result<Self> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            // As the hub opens it.
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full);
            let mut connection = SqliteConnection::connect_with(&options).await?;
            connection.execute(TABLES).await?;
            return Ok(Self::Sqlite(connection));
        }
        let mut connection = PgConnection::connect(url).await?;
        connection.execute(TABLES).await?;
        Ok(Self::Postgres(connection))
    }

    async fn commit(&mut self, batch: &Batch, rows: Rows) -> Result<()> {
        match self {
            Self::Sqlite(connection) => sqlite(connection, batch, rows).await,
            Self::Postgres(connection) => postgres(connection, batch, rows).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let o = Options::parse();
    if o.batch == 0 {
        bail!("a batch has at least one operation");
    }
    let mut database = Database::open(&o.url).await?;
    let (mut head, mut commits) = (0, 0_u64);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(o.seconds) {
        let batch = Batch::new(head, &o);
        database.commit(&batch, o.rows).await?;
        head = *batch.seq.last().unwrap_or(&head);
        commits += 1;
    }
    let wall = began.elapsed().as_secs_f64();
    let line = json!({
        "scenario": "bare", "rows": format!("{:?}", o.rows).to_lowercase(), "batch": o.batch,
        "bytes": o.bytes, "ops": head, "commits": commits, "wall_s": wall,
        "ops_per_s": (head as f64 / wall).round(),
    });
    println!("{line}");
    Ok(())
}
