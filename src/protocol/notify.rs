//! Whom a change has to reach: what a writer asks with an operation or an event.

use serde::{Deserialize, Serialize};

use super::op::Fields;
use crate::id::UserId;

/// How urgent a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// An emergency: shortest grace, own workers.
    Critical,
    /// Someone is waiting.
    High,
    /// Everything else.
    #[default]
    Normal,
}

impl Lane {
    /// The lane as it stands on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Normal => "normal",
        }
    }
}

/// Whom a change has to reach, and with what words.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// The recipients. The actor is never notified of their own act.
    pub users: Vec<UserId>,
    /// The title a person reads.
    pub title: String,
    /// The text a person reads.
    #[serde(default)]
    pub body: String,
    /// Data for the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Fields>,
    /// A deep link for the app to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// How urgent.
    #[serde(default)]
    pub lane: Lane,
}
