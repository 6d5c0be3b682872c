//! The few words in which the engines' SQL differs, so that a text is written once for both.
//!
//! | word | SQLite | PostgreSQL |
//! | --- | --- | --- |
//! | `ROWS($1)` | the elements of a JSON array, as the column `value` | the same |
//! | `NOW_MS` | the clock, in milliseconds since the Unix epoch | the database's clock: one for all instances |
//! | `LOCK_ROWS` | nothing: a transaction that writes is alone | locks the rows |
//! | `SKIP_LOCKED` | nothing | locks the rows nobody else has |

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::commit::Tx;
use super::{Inner, Store};

/// An engine's words.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The text in this engine's words. It is made of literals only, never of values.
    pub(super) fn sql(self, text: &'static str) -> SqlStr {
        let words: [(&str, &str); 4] = match self {
            Self::Sqlite => [
                ("ROWS(", "json_each("),
                ("NOW_MS", "CAST(unixepoch('subsec') * 1000 AS INTEGER)"),
                ("SKIP_LOCKED", ""),
                ("LOCK_ROWS", ""),
            ],
            Self::Postgres => [
                ("ROWS($1)", "json_array_elements($1::json)"),
                ("NOW_MS", "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"),
                ("SKIP_LOCKED", "FOR UPDATE SKIP LOCKED"),
                ("LOCK_ROWS", "FOR UPDATE"),
            ],
        };
        let mut sql = text.to_owned();
        for (word, meaning) in words {
            sql = sql.replace(word, meaning);
        }
        AssertSqlSafe(sql).into_sql_str()
    }
}

impl Store {
    /// The words of this store's engine.
    pub(super) fn dialect(&self) -> Dialect {
        match &self.inner {
            Inner::Sqlite { .. } => Dialect::Sqlite,
            Inner::Postgres(_) => Dialect::Postgres,
        }
    }
}

impl Tx {
    /// The words of this transaction's engine.
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }
}
