//! Bringing the schema up to date, from files built into the binary; see `migrations/README.md`.

use sqlx::Connection;
use sqlx::migrate::Migrator;

use super::{BEGIN_SQLITE, Inner, Store, StoreError};

/// A schema newer than this binary is accepted: during a rollout both versions run on it.
static SQLITE: Migrator = Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/sqlite") };
static POSTGRES: Migrator =
    Migrator { ignore_missing: true, ..sqlx::migrate!("migrations/postgres") };

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
                // A connection of its own: sqlx locks for the session, and a failure keeps the lock
                // until the connection is closed.
                let mut connection = pool.acquire().await?.detach();
                let result = async {
                    sqlx::query("SET lock_timeout = '60s'").execute(&mut connection).await?;
                    POSTGRES.run_direct(None, &mut connection, false).await
                };
                let result = result.await;
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
