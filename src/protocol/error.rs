//! Every refusal has a code a program can act on and a sentence a person can read.

use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a request was refused. Sent as `code` in an `error` frame and in problem details.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// All codes, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// Not JSON, not an object, or a field of the wrong type: fix the client.
    BadRequest = "bad_request",
    /// The frame's `type` is not known to this server: skip it, or upgrade.
    UnknownType = "unknown_type",
    /// A name is not of its form.
    InvalidName = "invalid_name",
    /// No token, or one that cannot be trusted: log in again.
    Unauthorized = "unauthorized",
    /// The token was good once: get a new one and go on.
    TokenExpired = "token_expired",
    /// The token was revoked: log in again.
    TokenRevoked = "token_revoked",
    /// The token does not grant this.
    Forbidden = "forbidden",
    /// There is no such thing, or it may not be seen.
    NotFound = "not_found",
    /// The request needs a subscription that this connection does not have.
    NotSubscribed = "not_subscribed",
    /// What arrived is not what its checksum says it should be: send it again.
    ChecksumMismatch = "checksum_mismatch",
    /// A configured limit was met; `detail.limit` names it.
    LimitExceeded = "limit_exceeded",
    /// Too many requests; wait `retry_after_ms`.
    RateLimited = "rate_limited",
    /// The hub is full or draining; wait `retry_after_ms`.
    Overloaded = "overloaded",
    /// The store does not answer; nothing was applied or its fate is unknown: retry with the same `op_id`.
    Unavailable = "unavailable",
    /// A fault of ours; the id in the message finds it in the log.
    Internal = "internal",
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

#[cfg(test)]
impl schemars::JsonSchema for ErrorCode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ErrorCode".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let codes: Vec<_> = Self::ALL.iter().map(|code| code.as_str()).collect();
        schemars::json_schema!({ "type": "string", "enum": codes })
    }
}

/// A refusal: a code, a plain sentence, and what a program needs besides.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[error("{code:?}: {message}")]
pub struct Refusal {
    /// What kind of refusal.
    pub code: ErrorCode,
    /// A sentence that says what to do.
    pub message: String,
    /// Milliseconds to wait before trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// More for programs, by code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

impl Refusal {
    /// A refusal with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None, detail: None }
    }

    /// Adds the time to wait, in milliseconds.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// A limit from the configuration was met: names it and its value.
    pub fn limit(name: &'static str, value: u64) -> Self {
        Self {
            code: ErrorCode::LimitExceeded,
            message: format!("the limit `{name}` is {value}"),
            retry_after_ms: None,
            detail: Some(serde_json::json!({ "limit": name, "value": value })),
        }
    }

    /// A fault of ours. The cause goes to the log under a fresh id; the client sees only the id.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        tracing::error!(error_id = %id, cause = %cause, "request failed");
        Self::new(
            ErrorCode::Internal,
            format!("the hub failed; its log has the cause under id {id}"),
        )
    }
}

impl From<crate::id::InvalidName> for Refusal {
    fn from(error: crate::id::InvalidName) -> Self {
        Self::new(ErrorCode::InvalidName, error.to_string())
    }
}

/// Why the hub closes a socket. The range tells the client what to do next:
/// 4000–4099 reconnect and resume · 4100–4199 get a new token first · 4200–4299 reconnect later ·
/// 4400–4499 do not reconnect, but for 4408.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The hub shuts down or hands over.
    ShuttingDown,
    /// The client read too slowly; its backlog was given up. Resume from the cursor.
    SlowConsumer,
    /// Nothing was heard from the client in time.
    NoPong,
    /// The token expired and its grace is over.
    TokenExpired,
    /// The token was revoked.
    TokenRevoked,
    /// The hub has no room for one more connection.
    OverCapacity,
    /// Too many requests or connections.
    RateLimited,
    /// The peer broke the protocol.
    BadRequest,
    /// No valid token.
    Unauthorized,
    /// An operator or a policy ended this session.
    Forbidden,
    /// No token arrived in time.
    ConnectTimeout,
    /// A frame was larger than `limits.frame_bytes`, or than 16 KiB before there was a token.
    FrameTooLarge,
}

impl CloseCode {
    /// All codes, for documentation and tests.
    pub const ALL: &'static [Self] = &[
        Self::ShuttingDown,
        Self::SlowConsumer,
        Self::NoPong,
        Self::TokenExpired,
        Self::TokenRevoked,
        Self::OverCapacity,
        Self::RateLimited,
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::ConnectTimeout,
        Self::FrameTooLarge,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::ShuttingDown => 4000,
            Self::SlowConsumer => 4001,
            Self::NoPong => 4002,
            Self::TokenExpired => 4100,
            Self::TokenRevoked => 4101,
            Self::OverCapacity => 4200,
            Self::RateLimited => 4201,
            Self::BadRequest => 4400,
            Self::Unauthorized => 4401,
            Self::Forbidden => 4403,
            Self::ConnectTimeout => 4408,
            Self::FrameTooLarge => 4413,
        }
    }

    /// The close reason on the wire, also the label in metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::ShuttingDown => "shutting_down",
            Self::SlowConsumer => "slow_consumer",
            Self::NoPong => "no_pong",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::OverCapacity => "over_capacity",
            Self::RateLimited => "rate_limited",
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::ConnectTimeout => "connect_timeout",
            Self::FrameTooLarge => "frame_too_large",
        }
    }
}
