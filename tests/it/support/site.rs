//! A place where stores can be opened: an empty directory, or an empty database.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use syncline::config;
use syncline::store::Store;
use tempfile::TempDir;

use super::postgres;

/// Lives as long as the test.
pub(crate) struct Site {
    pub(crate) config: config::Store,
    pub(crate) directory: TempDir,
}

impl Site {
    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}/data/syncline.db", directory.path().display());
        Self::at(url, directory)
    }

    pub(crate) async fn postgres() -> Self {
        Self::at(postgres::fresh_database().await, tempfile::tempdir().unwrap())
    }

    fn at(url: String, directory: TempDir) -> Self {
        let lock_timeout = Duration::from_secs(20);
        Self { config: config::Store { url, lock_timeout, ..Default::default() }, directory }
    }

    /// Runs statements beside the hub's.
    pub(crate) async fn run(&self, sql: &str) {
        let statements = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        if self.config.url.starts_with("sqlite:") {
            let mut db = SqliteConnection::connect(&self.config.url).await.unwrap();
            statements.execute(&mut db).await.unwrap();
            db.close().await.unwrap();
        } else {
            let mut db = PgConnection::connect(&self.config.url).await.unwrap();
            statements.execute(&mut db).await.unwrap();
            db.close().await.unwrap();
        }
    }

    /// The schema as it was up to this migration.
    pub(crate) async fn migrate_to(&self, last: i64) {
        let sqlite = self.config.url.strip_prefix("sqlite:");
        let files = format!("migrations/{}", if sqlite.is_some() { "sqlite" } else { "postgres" });
        let mut migrator = Migrator::new(Path::new(&files)).await.unwrap();
        migrator.migrations.to_mut().retain(|migration| migration.version <= last);
        if let Some(file) = sqlite {
            std::fs::create_dir_all(Path::new(file).parent().unwrap()).unwrap();
            let url = format!("{}?mode=rwc", self.config.url);
            let mut db = SqliteConnection::connect(&url).await.unwrap();
            migrator.run(&mut db).await.unwrap();
            db.close().await.unwrap();
        } else {
            let mut db = PgConnection::connect(&self.config.url).await.unwrap();
            migrator.run(&mut db).await.unwrap();
            db.close().await.unwrap();
        }
    }

    /// Forgets what was written to any project's log, which is much less work than another database.
    pub(crate) async fn forget_logs(&self) {
        self.run(
            "TRUNCATE sync_head, changes, entities, sync_queue, id_mappings, conflict_log,
                 notifications, push_intents",
        )
        .await;
    }

    /// A handle of its own, as another instance would have; the schema is brought up to date.
    pub(crate) async fn open(&self) -> Store {
        let store = Store::open(&self.config).await.unwrap();
        store.migrate().await.unwrap();
        store
    }
}
