//! Devices: which token reaches which installation of which user.

use sha2::{Digest, Sha256};

use super::super::{Store, StoreError, value};
use super::cancel::{Counts, cancel, cancel_deliveries, write_counts};
use crate::id::{ClientId, UserId};

/// The full state of a device, as it registers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The installation.
    pub client: ClientId,
    /// Whose token it is.
    pub provider: String,
    /// `ios`, `android` or `web`.
    pub platform: String,
    /// The token.
    pub token: String,
    /// The language, e.g. `pt-BR`.
    pub locale: Option<String>,
    /// The time zone, e.g. `America/Sao_Paulo`.
    pub tz: Option<String>,
    /// The app's version.
    pub app_version: Option<String>,
    /// The device's model.
    pub model: Option<String>,
}

/// A registered device.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Device {
    /// Its number.
    pub id: i64,
    /// Whose it is now.
    pub user_id: String,
    /// The installation.
    pub client: String,
    /// Whose token it is.
    pub provider: String,
    /// `ios`, `android` or `web`.
    pub platform: String,
    /// The token.
    pub token: String,
    /// The provider's project it belongs to, once known.
    pub scope: Option<String>,
    /// The language.
    pub locale: Option<String>,
    /// The time zone.
    pub tz: Option<String>,
    /// The app's version.
    pub app_version: Option<String>,
    /// The device's model.
    pub model: Option<String>,
    /// `active`, `suspect` or `disabled`.
    pub state: String,
    /// Why it is not active.
    pub reason: Option<String>,
    /// When it registered last.
    pub registered_at: i64,
    /// When something was last handed over to it.
    pub last_success_at: Option<i64>,
}

/// A token is in one place: whoever else has it loses it. An installation has one token; it is its user's alone, so who
/// names another's takes nothing from them.
const CANCEL_TAKEN: &str = cancel_deliveries!(
    "moved",
    "token_id IN (SELECT id FROM push_tokens WHERE provider = $1 AND token_hash = $2 AND user_id <> $3)"
);

const DELETE_TAKEN: &str =
    "DELETE FROM push_tokens WHERE provider = $1 AND token_hash = $2 AND user_id <> $3";

/// A device that a user had already stays the same one, with another token or as another installation, and what is
/// queued for it comes. If it was known as both, what was queued for the installation goes to the token.
const JOIN: [&str; 3] = [
    "
    UPDATE push_deliveries SET token_id = (
        SELECT id FROM push_tokens WHERE provider = $1 AND token_hash = $2 AND user_id = $3 AND client <> $4)
    WHERE state IN ('queued', 'retry') AND token_id IN (
        SELECT id FROM push_tokens WHERE provider = $1 AND token_hash <> $2 AND user_id = $3 AND client = $4)
      AND EXISTS (
        SELECT 1 FROM push_tokens WHERE provider = $1 AND token_hash = $2 AND user_id = $3 AND client <> $4)",
    "
    DELETE FROM push_tokens WHERE provider = $1 AND token_hash <> $2 AND user_id = $3 AND client = $4
      AND EXISTS (
        SELECT 1 FROM push_tokens t
        WHERE t.provider = $1 AND t.token_hash = $2 AND t.user_id = $3 AND t.client <> $4)",
    "
    UPDATE push_tokens SET client = $4
    WHERE provider = $1 AND token_hash = $2 AND user_id = $3 AND client <> $4",
];

const REGISTER: &str = "
    INSERT INTO push_tokens (user_id, client, provider, platform, token, token_hash, locale, tz,
        app_version, model, state, state_at, registered_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'active', NOW_MS, NOW_MS)
    ON CONFLICT (user_id, client, provider) DO UPDATE SET
        platform = excluded.platform, token = excluded.token, token_hash = excluded.token_hash,
        scope = CASE WHEN push_tokens.token_hash = excluded.token_hash THEN push_tokens.scope END,
        locale = excluded.locale, tz = excluded.tz, app_version = excluded.app_version,
        model = excluded.model, state = 'active', reason = NULL, state_at = excluded.state_at,
        registered_at = excluded.registered_at
    RETURNING id";

/// Devices of one user; with one more, the one registered longest ago is forgotten.
const PER_USER: i64 = 50;

const SURPLUS: &str = "
    DELETE FROM push_tokens WHERE user_id = $1 AND id IN (
        SELECT id FROM push_tokens WHERE user_id = $1 ORDER BY registered_at DESC, id DESC LIMIT 1000 OFFSET $2)";

const LIST: &str = "SELECT * FROM push_tokens WHERE user_id = $1 ORDER BY id";

const ONE: &str = "SELECT * FROM push_tokens WHERE id = $1";

const REMOVE_DELIVERIES: &str = cancel_deliveries!(
    "removed",
    "token_id IN (SELECT id FROM push_tokens WHERE user_id = $1 AND (id = $2 OR client = $3))"
);

const REMOVE: &str = "DELETE FROM push_tokens WHERE user_id = $1 AND (id = $2 OR client = $3)";

const SEARCH: &str = "
    SELECT * FROM push_tokens WHERE ($1 = '' OR user_id = $1) AND ($2 = '' OR state = $2)
    ORDER BY id DESC LIMIT $3";

const IDLE: &str = "
    UPDATE push_tokens SET state = 'disabled', reason = 'idle', state_at = NOW_MS
    WHERE state <> 'disabled' AND registered_at < NOW_MS - $1
      AND COALESCE(last_success_at, 0) < NOW_MS - $1";

/// What a token is found by, without saying what it is.
pub(super) fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}

impl Store {
    /// Registers a device for a user, with all there is to know of it. A token belongs to whoever registered it
    /// last: what was queued for the user before is canceled. Returns the device's number.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn register_device(
        &self,
        user: &UserId,
        r: &Registration,
    ) -> Result<i64, StoreError> {
        let (dialect, hash) = (self.dialect(), hash(&r.token));
        let text = |text: &Option<String>| text.as_deref().map(|t| value::text(t).into_owned());
        let (locale, tz) = (text(&r.locale), text(&r.tz));
        let (app_version, model) = (text(&r.app_version), text(&r.model));
        let id: i64 = in_transaction!(self, |tx| {
            let mut counts = Counts::default();
            let taken = sqlx::query_as(dialect.sql(CANCEL_TAKEN)).bind(&r.provider).bind(&hash);
            cancel!(tx, counts, taken.bind(user.as_str()));
            let taken = sqlx::query(DELETE_TAKEN).bind(&r.provider).bind(&hash);
            taken.bind(user.as_str()).execute(&mut *tx).await?;
            for text in JOIN {
                let join = sqlx::query(text).bind(&r.provider).bind(&hash).bind(user.as_str());
                join.bind(r.client.as_str()).execute(&mut *tx).await?;
            }
            let id = sqlx::query_scalar(dialect.sql(REGISTER))
                .bind(user.as_str())
                .bind(r.client.as_str())
                .bind(&r.provider)
                .bind(&r.platform)
                .bind(&r.token)
                .bind(&hash)
                .bind(&locale)
                .bind(&tz)
                .bind(&app_version)
                .bind(&model)
                .fetch_one(&mut *tx)
                .await?;
            sqlx::query(dialect.sql(SURPLUS))
                .bind(user.as_str())
                .bind(PER_USER)
                .execute(&mut *tx)
                .await?;
            write_counts!(tx, dialect, counts);
            id
        });
        Ok(id)
    }

    /// A user's devices, in the order they came.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn devices(&self, user: &UserId) -> Result<Vec<Device>, StoreError> {
        let rows: Result<_, sqlx::Error> =
            on_reader!(self, |db| sqlx::query_as(LIST).bind(user.as_str()).fetch_all(db).await);
        Ok(rows?)
    }

    /// One device.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn device(&self, id: i64) -> Result<Option<Device>, StoreError> {
        let row: Result<_, sqlx::Error> =
            on_reader!(self, |db| sqlx::query_as(ONE).bind(id).fetch_optional(db).await);
        Ok(row?)
    }

    /// Devices for an operator: of a user, in a state, or all if these are empty; the latest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn search_devices(
        &self,
        user: &str,
        state: &str,
        limit: u32,
    ) -> Result<Vec<Device>, StoreError> {
        let rows: Result<_, sqlx::Error> = on_reader!(self, |db| {
            let query = sqlx::query_as(SEARCH).bind(user).bind(state).bind(i64::from(limit));
            query.fetch_all(db).await
        });
        Ok(rows?)
    }

    /// Forgets a user's device, by its number or by its installation, and cancels what is queued for it.
    /// Returns how many were forgotten.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn remove_device(
        &self,
        user: &UserId,
        id: Option<i64>,
        client: Option<&ClientId>,
    ) -> Result<u64, StoreError> {
        let dialect = self.dialect();
        let client = client.map(ClientId::as_str);
        let removed = in_transaction!(self, |tx| {
            let mut counts = Counts::default();
            let queued = sqlx::query_as(dialect.sql(REMOVE_DELIVERIES)).bind(user.as_str());
            cancel!(tx, counts, queued.bind(id).bind(client));
            let removed =
                sqlx::query(dialect.sql(REMOVE)).bind(user.as_str()).bind(id).bind(client);
            let removed = removed.execute(&mut *tx).await?.rows_affected();
            write_counts!(tx, dialect, counts);
            removed
        });
        Ok(removed)
    }

    /// Disables tokens that were neither registered nor reached for so long. Returns how many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn disable_idle_devices(&self, idle_ms: i64) -> Result<u64, StoreError> {
        let dialect = self.dialect();
        Ok(execute!(self, sqlx::query(dialect.sql(IDLE)).bind(idle_ms)))
    }
}
