//! Bringing the schema up to date, from files built into the binary; see `migrations/README.md`.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use super::{BEGIN_SQLITE, Inner, Store, StoreError};

/// A schema newer than this binary is accepted: during a rollout both versions run on it.
static SQLITE: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/sqlite") };
static POSTGRES: Migrator =
    Migrator { ignore_missing: true, locking: false, ..sqlx::migrate!("migrations/postgres") };

/// The advisory lock of whoever migrates PostgreSQL.
const MIGRATING: i64 = 0x5379_6e63_6c69_6e65;
/// How often it is tried.
const TRY_AGAIN: Duration = Duration::from_millis(100);

impl Store {
    /// Applies what is missing. Any number of instances may call it at once: one does the work, the
    /// others wait for it.
    ///
    /// # Errors
    /// [`StoreError::Schema`] if a migration fails or an applied one was edited.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.inner {
            Inner::Sqlite { writer, .. } => {
                // The write lock keeps other processes out; sqlx takes none on SQLite.
                let mut tx = writer.begin_with(BEGIN_SQLITE).await?;
                SQLITE.run_direct(None, &mut *tx, false).await?;
                tx.commit().await?;
            }
            Inner::Postgres(pool) => {
                // A connection of its own: the lock is the session's, and ends with it.
                let mut connection = pool.acquire().await?.detach();
                let result = migrate_postgres(&mut connection).await;
                connection.close().await.ok();
                result?;
            }
        }
        Ok(())
    }

    /// Whether every migration this binary knows is applied.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if that cannot be told.
    pub async fn schema_is_current(&self) -> Result<bool, StoreError> {
        const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success";
        let applied: Result<Vec<i64>, sqlx::Error> =
            on_reader!(self, |db| sqlx::query_scalar(APPLIED).fetch_all(db).await);
        let applied = match applied.map_err(StoreError::from) {
            Ok(applied) => applied,
            Err(StoreError::Schema(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let known = if self.groups_projects() { &SQLITE } else { &POSTGRES };
        Ok(known.iter().all(|migration| applied.contains(&migration.version)))
    }
}

/// The lock is tried, not waited for: an index that is built `CONCURRENTLY` waits for every statement
/// that began before, and one that waits for the lock would wait for it in turn.
async fn migrate_postgres(connection: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SET lock_timeout = '60s'").execute(&mut *connection).await?;
    const TRY: &str = "SELECT pg_try_advisory_lock($1)";
    while !sqlx::query_scalar(TRY).bind(MIGRATING).fetch_one(&mut *connection).await? {
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Ok(POSTGRES.run_direct(None, connection, false).await?)
}
