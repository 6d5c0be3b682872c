//! Opening and closing: how each engine is set up so that a commit is durable and a wait is bounded.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Pool, Postgres, Sqlite};

use super::{Inner, Store, StoreError};
use crate::config;

/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A pooled connection idle for longer is checked before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// The write-ahead log is cut back to this size when it is checkpointed.
const WAL_BYTES: &str = "67108864";
/// Pages of the write-ahead log after which a commit copies them back: 32 MiB. A group touches pages all over
/// the indexes, so at SQLite's own 1000 every other commit would pay for the copy and its flush.
const CHECKPOINT_PAGES: &str = "8192";
/// What the one writer keeps of the file, in KiB (negative is SQLite's way to say that it is not pages). With
/// SQLite's own 2 MiB most of a group's pages would be read again, and some written before the commit.
const WRITER_CACHE: &str = "-65536";

impl Store {
    /// Opens the store the configuration names; SQLite's file and directory are created if missing.
    /// The schema is not touched: see [`Store::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Config`] for a URL that cannot work, [`StoreError::Unavailable`] if nothing answers.
    pub async fn open(config: &config::Store) -> Result<Self, StoreError> {
        let inner = match config.url.split_once(':') {
            Some(("sqlite", _)) => open_sqlite(config).await?,
            Some(("postgres" | "postgresql", _)) => Inner::Postgres(open_postgres(config).await?),
            _ => {
                return Err(StoreError::Config(
                    "`store.url` must start with `sqlite:` or `postgres://`".into(),
                ));
            }
        };
        Ok(Self { inner, armed: Arc::default(), repeats: Arc::default() })
    }

    /// Whether one commit should carry batches of several projects: SQLite has one writer for all of
    /// them, and one flush to disk then serves them together.
    #[must_use]
    pub fn groups_projects(&self) -> bool {
        matches!(self.inner, Inner::Sqlite { .. })
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let one: Result<i32, _> =
            on_reader!(self, |db| sqlx::query_scalar("SELECT 1").fetch_one(db).await);
        one?;
        Ok(())
    }

    /// Waits for running statements and closes all connections.
    pub async fn close(&self) {
        match &self.inner {
            Inner::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Inner::Postgres(pool) => pool.close().await,
        }
    }
}

async fn open_sqlite(config: &config::Store) -> Result<Inner, StoreError> {
    let url = &config.url;
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(StoreError::Config("SQLite in memory cannot keep a log; name a file".into()));
    }
    let options = SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .busy_timeout(config.lock_timeout)
        // Only macOS needs to be told that a flush means the disk; elsewhere it changes nothing.
        .pragma("fullfsync", "1")
        .pragma("journal_size_limit", WAL_BYTES)
        .disable_statement_logging();
    if let Some(directory) = options.get_filename().parent() {
        create_directory(directory).await?;
    }
    let pool = || -> SqlitePoolOptions {
        SqlitePoolOptions::new()
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
    };
    let writer: Pool<Sqlite> = pool()
        .min_connections(1)
        .max_connections(1)
        .connect_with(
            options
                .clone()
                .pragma("cache_size", WRITER_CACHE)
                .pragma("wal_autocheckpoint", CHECKPOINT_PAGES),
        )
        .await?;
    let readers = pool()
        .max_connections(config.connections.max(1))
        .connect_with(options.create_if_missing(false).pragma("query_only", "1"))
        .await?;
    Ok(Inner::Sqlite { writer, readers })
}

async fn create_directory(directory: &Path) -> Result<(), StoreError> {
    tokio::fs::create_dir_all(directory).await.map_err(|error| {
        StoreError::Config(format!("cannot create {}: {error}", directory.display()))
    })
}

async fn open_postgres(config: &config::Store) -> Result<Pool<Postgres>, StoreError> {
    let options = PgConnectOptions::from_str(&config.url)?
        .application_name("syncline")
        .disable_statement_logging();
    let lock_timeout = config.lock_timeout;
    let pool = PgPoolOptions::new()
        .max_connections(config.connections.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move {
                if state.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                sqlx::query(POSTGRES_SETTINGS)
                    .bind(lock_timeout.as_millis().to_string())
                    .bind((5 * lock_timeout).as_millis().to_string())
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .connect_with(options)
        .await?;
    Ok(pool)
}

/// A lock is waited for but so long; an instance that froze inside a transaction loses its lock; a
/// server that acknowledges before it flushes is told to flush for us.
const POSTGRES_SETTINGS: &str = "
    SELECT set_config('lock_timeout', $1, false),
           set_config('idle_in_transaction_session_timeout', $2, false),
           set_config('default_transaction_isolation', 'read committed', false),
           set_config('synchronous_commit', CASE current_setting('synchronous_commit')
               WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_writer_of_sqlite_flushes_each_commit_and_seldom_copies_pages_back() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("hub.db").display());
        let store = Store::open(&config::Store { url, ..Default::default() }).await.unwrap();
        let Inner::Sqlite { writer, .. } = &store.inner else { unreachable!() };
        for (setting, expected) in [
            ("PRAGMA synchronous", "2"),
            ("PRAGMA cache_size", WRITER_CACHE),
            ("PRAGMA wal_autocheckpoint", CHECKPOINT_PAGES),
        ] {
            let value: i64 = sqlx::query_scalar(setting).fetch_one(writer).await.unwrap();
            assert_eq!(value.to_string(), expected, "{setting}");
        }
    }
}
