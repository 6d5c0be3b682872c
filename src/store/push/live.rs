//! Who has a connection, on whichever instance: it only decides how long a push waits to be acknowledged.

use super::super::{Store, StoreError, value};
use crate::id::{InstanceId, UserId};

const COME: &str = "
    INSERT INTO live_users (user_id, instance) SELECT value->>0, value->>1 FROM ROWS($1) WHERE true
    ON CONFLICT DO NOTHING";

const GO: &str = "
    DELETE FROM live_users WHERE instance = $2 AND user_id IN (SELECT value->>0 FROM ROWS($1))";

const BEAT: &str = "UPDATE live_instances SET until = NOW_MS + $2 WHERE instance = $1";

const BEGIN: &str = "
    INSERT INTO live_instances (instance, until) VALUES ($1, NOW_MS + $2)
    ON CONFLICT (instance) DO UPDATE SET until = excluded.until";

/// One that is just saying that it lives is left out, and nobody waits for it.
const BURY: &str = "
    DELETE FROM live_instances WHERE instance IN
        (SELECT instance FROM live_instances WHERE until <= NOW_MS SKIP_LOCKED)";

/// After [`BURY`], in its transaction: whoever keeps its row keeps its users, and who lost it is told so by its
/// next beat and says again who is there.
const BURY_USERS: &str = "
    DELETE FROM live_users WHERE instance NOT IN (SELECT instance FROM live_instances)";

impl Store {
    /// Notes who came to and who left an instance.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn live(
        &self,
        instance: InstanceId,
        come: &[UserId],
        gone: &[UserId],
    ) -> Result<(), StoreError> {
        let (dialect, instance) = (self.dialect(), instance.to_string());
        // In one order everywhere, so that two instances cannot wait for each other.
        let mut come: Vec<_> = come.iter().map(|user| (user, &instance)).collect();
        come.sort();
        let (come, gone) = (value::json_text(&come), gone.iter().map(|user| [user]));
        let gone = value::json_text(&gone.collect::<Vec<_>>());
        in_transaction!(self, |tx| {
            sqlx::query(dialect.sql(COME)).bind(&come).execute(&mut *tx).await?;
            sqlx::query(dialect.sql(GO)).bind(&gone).bind(&instance).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// Says that an instance lives for `lease_ms` more, and forgets those that do not. Returns whether it
    /// was forgotten itself: then it has to say again who is there.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn beat(&self, instance: InstanceId, lease_ms: i64) -> Result<bool, StoreError> {
        let (dialect, name) = (self.dialect(), instance.to_string());
        let forgotten =
            execute!(self, sqlx::query(dialect.sql(BEAT)).bind(&name).bind(lease_ms)) == 0;
        if forgotten {
            execute!(self, sqlx::query(dialect.sql(BEGIN)).bind(&name).bind(lease_ms));
        }
        in_transaction!(self, |tx| {
            sqlx::query(dialect.sql(BURY)).execute(&mut *tx).await?;
            sqlx::query(BURY_USERS).execute(&mut *tx).await?;
        });
        Ok(forgotten)
    }
}
