//! What can go wrong in the store, sorted by what the caller does about it.
//!
//! No text contains a connection URL, so none can leak its password.

use sqlx::migrate::MigrateError;

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be reached, or another transaction was in the way, or the outcome of a commit is
    /// unknown. Doing the same again is safe and may work.
    #[error("the store is unavailable: {0}")]
    Unavailable(sqlx::Error),
    /// The database refused the values of this statement; doing the same again will not work.
    #[error("the store refused the data: {0}")]
    Data(sqlx::Error),
    /// The tables, or what is in them, are not what this binary expects.
    #[error("the store's schema does not fit: {0}")]
    Schema(String),
    /// The configuration cannot work.
    #[error("the store's configuration is wrong: {0}")]
    Config(String),
    /// A plan's effects broke a rule of [`super::Effects`]; nothing was written.
    #[error("a commit was planned wrongly: {0}")]
    Plan(&'static str),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// A stored value that cannot be read back.
    pub(super) fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Self {
        Self::Schema(format!("a stored {what} cannot be read: {error}"))
    }

    /// A read that was given up half-way; another try may work.
    pub(crate) fn interrupted() -> Self {
        Self::Unavailable(sqlx::Error::WorkerCrashed)
    }

    /// A `sync_head` row that was there is gone; the hub never deletes one.
    pub(super) fn vanished() -> Self {
        Self::Schema("a project's head vanished".into())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Database(cause) => {
                let code = cause.code().unwrap_or_default();
                let class = if cause.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                    sqlite_class(&code, cause.message())
                } else {
                    postgres_class(&code)
                };
                match class {
                    Class::Unavailable => Self::Unavailable(error),
                    Class::Data => Self::Data(error),
                    Class::Schema => Self::Schema(cause.message().to_owned()),
                    Class::Config => Self::Config(cause.message().to_owned()),
                }
            }
            E::Configuration(cause) => Self::Config(cause.to_string()),
            E::Encode(_) | E::InvalidArgument(_) => Self::Data(error),
            E::ColumnDecode { .. }
            | E::Decode(_)
            | E::ColumnNotFound(_)
            | E::ColumnIndexOutOfBounds { .. }
            | E::TypeNotFound { .. }
            | E::RowNotFound => Self::Schema(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

impl From<MigrateError> for StoreError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(cause) => cause.into(),
            MigrateError::ExecuteMigration(cause, version) => match Self::from(cause) {
                Self::Unavailable(cause) => Self::Unavailable(cause),
                other => Self::Schema(format!("migration {version} failed: {other}")),
            },
            other => Self::Schema(other.to_string()),
        }
    }
}

#[derive(Debug, PartialEq)]
enum Class {
    Unavailable,
    Data,
    Schema,
    Config,
}

/// By SQLSTATE. What is not known to be the data's fault is never blamed on it: a verdict is for ever.
fn postgres_class(code: &str) -> Class {
    match (code.get(..2).unwrap_or_default(), code) {
        ("22" | "23" | "54", _) => Class::Data,
        (_, "3D000") | ("28", _) => Class::Config,
        ("42" | "3F", _) => Class::Schema,
        _ => Class::Unavailable,
    }
}

/// By result code, whose low byte is the primary one; with the same restraint.
fn sqlite_class(code: &str, message: &str) -> Class {
    match code.parse::<i32>().unwrap_or(0) & 0xff {
        // TOOBIG, CONSTRAINT, MISMATCH
        18..=20 => Class::Data,
        // ERROR is anything; a wrong schema is told by its text.
        1 if message.starts_with("no such") || message.contains("has no column") => Class::Schema,
        // CORRUPT, NOTADB
        11 | 26 => Class::Schema,
        _ => Class::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_datas_fault_is_blamed_on_it() {
        for (code, class) in [
            ("22021", Class::Data),        // a NUL in a text
            ("23505", Class::Data),        // a key twice
            ("54000", Class::Data),        // an index row too large
            ("40001", Class::Unavailable), // serialization failure
            ("40P01", Class::Unavailable), // deadlock
            ("55P03", Class::Unavailable), // lock timeout
            ("53100", Class::Unavailable), // disk full
            ("57P01", Class::Unavailable), // shut down by an administrator
            ("25006", Class::Unavailable), // a standby, after a failover
            ("25P03", Class::Unavailable), // idle in transaction for too long
            ("XX000", Class::Unavailable), // internal error
            ("", Class::Unavailable),
            ("42P01", Class::Schema), // no such table
            ("3D000", Class::Config), // no such database
            ("28P01", Class::Config), // wrong password
        ] {
            assert_eq!(postgres_class(code), class, "{code}");
        }
        for (code, message, class) in [
            ("1555", "UNIQUE constraint failed: t.a", Class::Data),
            ("18", "string or blob too big", Class::Data),
            ("5", "database is locked", Class::Unavailable),
            ("517", "database is locked", Class::Unavailable), // a snapshot that is no longer the latest
            ("13", "database or disk is full", Class::Unavailable),
            ("1", "cannot commit - no transaction is active", Class::Unavailable),
            ("1", "no such table: changes", Class::Schema),
            ("1", "table changes has no column named x", Class::Schema),
            ("26", "file is not a database", Class::Schema),
        ] {
            assert_eq!(sqlite_class(code, message), class, "{code} {message}");
        }
    }
}
