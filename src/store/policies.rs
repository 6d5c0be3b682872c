//! Cache policies: how long a client may keep what it read, by entity type.

use super::{Store, StoreError, value};
use crate::id::EntityType;
use crate::protocol::policy::{CachePolicy, Strategy};

/// Policies there may be; an administrator writes them.
const MOST: i64 = 1000;

/// A row of `cache_policies`.
#[derive(sqlx::FromRow)]
struct PolicyRow {
    r#type: String,
    strategy: String,
    ttl: i64,
    stale: i64,
    max_bytes: i64,
}

impl PolicyRow {
    fn read(self) -> Result<(EntityType, CachePolicy), StoreError> {
        let number = |column: i64| u64::try_from(column).unwrap_or(0);
        let policy = CachePolicy {
            strategy: Strategy::named(&self.strategy)
                .ok_or_else(|| StoreError::unreadable("cache strategy", &"unknown"))?,
            ttl: number(self.ttl),
            stale: number(self.stale),
            max_bytes: number(self.max_bytes),
        };
        Ok((value::name(&self.r#type)?, policy))
    }
}

impl Store {
    /// All policies, in the order of types.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn cache_policies(&self) -> Result<Vec<(EntityType, CachePolicy)>, StoreError> {
        const ALL: &str = "
            SELECT type, strategy, ttl, stale, max_bytes FROM cache_policies ORDER BY type LIMIT $1";
        let rows: Vec<PolicyRow> =
            on_reader!(self, |db| sqlx::query_as(ALL).bind(MOST).fetch_all(db).await)?;
        rows.into_iter().map(PolicyRow::read).collect()
    }

    /// Sets the policy of a type. False if there are too many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn set_cache_policy(
        &self,
        entity_type: &EntityType,
        policy: &CachePolicy,
    ) -> Result<bool, StoreError> {
        const UPSERT: &str = "
            INSERT INTO cache_policies (type, strategy, ttl, stale, max_bytes)
            SELECT $1, $2, $3, $4, $5
            WHERE (SELECT COUNT(*) FROM cache_policies WHERE type <> $1) < $6
            ON CONFLICT (type) DO UPDATE SET strategy = excluded.strategy, ttl = excluded.ttl,
                stale = excluded.stale, max_bytes = excluded.max_bytes";
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let written = execute!(
            self,
            sqlx::query(UPSERT)
                .bind(entity_type.as_str())
                .bind(policy.strategy.as_str())
                .bind(number(policy.ttl))
                .bind(number(policy.stale))
                .bind(number(policy.max_bytes))
                .bind(MOST)
        );
        Ok(written == 1)
    }

    /// Takes the policy of a type away. False if there is none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn delete_cache_policy(&self, entity_type: &EntityType) -> Result<bool, StoreError> {
        const DELETE: &str = "DELETE FROM cache_policies WHERE type = $1";
        Ok(execute!(self, sqlx::query(DELETE).bind(entity_type.as_str())) == 1)
    }
}
