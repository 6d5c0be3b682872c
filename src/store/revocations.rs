//! What is revoked, kept until it has no effect any more, so that a restart forgets nothing.

use super::{RevocationRow, Store, StoreError};

impl Store {
    /// Stores a revocation; of two with the same body the one that lasts longer stays.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revoke(&self, revocation: &RevocationRow) -> Result<(), StoreError> {
        const UPSERT: &str = "
            INSERT INTO revocations (body, expires_at) VALUES ($1, $2)
            ON CONFLICT (body) DO UPDATE SET expires_at = excluded.expires_at
            WHERE revocations.expires_at < excluded.expires_at";
        execute!(self, sqlx::query(UPSERT).bind(&revocation.body).bind(revocation.expires_at));
        Ok(())
    }

    /// All revocations in force at `now_s`, in seconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn revocations(&self, now_s: i64) -> Result<Vec<RevocationRow>, StoreError> {
        const IN_FORCE: &str = "SELECT body, expires_at FROM revocations WHERE expires_at > $1";
        let rows: Vec<(String, i64)> =
            on_reader!(self, |db| sqlx::query_as(IN_FORCE).bind(now_s).fetch_all(db).await)?;
        Ok(rows.into_iter().map(|(body, expires_at)| RevocationRow { body, expires_at }).collect())
    }

    /// Forgets revocations that have expired; returns how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn purge_revocations(&self, now_s: i64) -> Result<u64, StoreError> {
        const PURGE: &str = "DELETE FROM revocations WHERE expires_at <= $1";
        Ok(execute!(self, sqlx::query(PURGE).bind(now_s)))
    }
}
