//! Label values of connections and requests.

use super::Label;
use crate::auth::TokenError;
use crate::protocol::error::CloseCode;

label! {
    /// Why a connection ended: the close code sent, or what the peer did.
    Closed("reason") {
        /// The client closed it.
        Client = "client",
        /// The link broke.
        Lost = "lost",
        /// 4000.
        ShuttingDown = "shutting_down",
        /// 4001.
        SlowConsumer = "slow_consumer",
        /// 4002.
        NoPong = "no_pong",
        /// 4100.
        TokenExpired = "token_expired",
        /// 4101.
        TokenRevoked = "token_revoked",
        /// 4200.
        OverCapacity = "over_capacity",
        /// 4201.
        RateLimited = "rate_limited",
        /// 4400.
        BadRequest = "bad_request",
        /// 4401.
        Unauthorized = "unauthorized",
        /// 4403.
        Forbidden = "forbidden",
        /// 4408.
        ConnectTimeout = "connect_timeout",
        /// 4413.
        FrameTooLarge = "frame_too_large",
    }
}

impl From<CloseCode> for Closed {
    fn from(code: CloseCode) -> Self {
        match code {
            CloseCode::ShuttingDown => Self::ShuttingDown,
            CloseCode::SlowConsumer => Self::SlowConsumer,
            CloseCode::NoPong => Self::NoPong,
            CloseCode::TokenExpired => Self::TokenExpired,
            CloseCode::TokenRevoked => Self::TokenRevoked,
            CloseCode::OverCapacity => Self::OverCapacity,
            CloseCode::RateLimited => Self::RateLimited,
            CloseCode::BadRequest => Self::BadRequest,
            CloseCode::Unauthorized => Self::Unauthorized,
            CloseCode::Forbidden => Self::Forbidden,
            CloseCode::ConnectTimeout => Self::ConnectTimeout,
            CloseCode::FrameTooLarge => Self::FrameTooLarge,
        }
    }
}

label! {
    /// What was delivered to a connection.
    Delivery("kind") {
        /// A change of the log.
        Change = "change",
        /// An ephemeral broadcast.
        Event = "event",
        /// Joins, leaves and updates.
        Presence = "presence",
        /// A notification.
        Notification = "notification",
        /// The answer to a request, or what the hub says of itself.
        Reply = "reply",
    }
}

label! {
    /// Why something was given up because a bound was met.
    Dropped("reason") {
        /// A connection's outbox was full; the connection resumes.
        Outbox = "outbox",
        /// The queue to the bus was full; other instances heal from the store.
        BusQueue = "bus_queue",
        /// A message of another instance could not be read.
        BusMessage = "bus_message",
        /// A shard's queue was full.
        ShardQueue = "shard_queue",
        /// A project writer's queue was full; the write was refused.
        WriteQueue = "write_queue",
        /// A checksum, before its project was read: too many others waited for that.
        Checksum = "checksum",
        /// A record of the log of requests: its queue was full, or the store did not take it.
        SyncLog = "sync_log",
    }
}

label! {
    /// Why a token was not believed.
    AuthFailure("reason") {
        /// There was none.
        Missing = "missing",
        /// It is not a JWT.
        Malformed = "malformed",
        /// Its algorithm or its extensions are not accepted.
        NotAccepted = "not_accepted",
        /// It, or a claim in it, is too large.
        TooLarge = "too_large",
        /// No configured key matches its header.
        UnknownKey = "unknown_key",
        /// Its signature is wrong.
        BadSignature = "bad_signature",
        /// It expired.
        Expired = "expired",
        /// It is not valid yet.
        NotYetValid = "not_yet_valid",
        /// Its issuer is another.
        Issuer = "issuer",
        /// Its audience is another.
        Audience = "audience",
        /// A claim is missing or of the wrong form.
        Claims = "claims",
        /// It was revoked.
        Revoked = "revoked",
        /// The admin token was wrong.
        AdminToken = "admin_token",
    }
}

impl From<&TokenError> for AuthFailure {
    fn from(error: &TokenError) -> Self {
        match error {
            TokenError::Missing => Self::Missing,
            TokenError::Malformed => Self::Malformed,
            TokenError::WrongAlgorithm | TokenError::Critical => Self::NotAccepted,
            TokenError::UnknownKey => Self::UnknownKey,
            TokenError::BadSignature => Self::BadSignature,
            TokenError::Expired => Self::Expired,
            TokenError::NotYetValid => Self::NotYetValid,
            TokenError::WrongIssuer => Self::Issuer,
            TokenError::WrongAudience => Self::Audience,
            TokenError::Revoked => Self::Revoked,
            TokenError::TooLarge(_) => Self::TooLarge,
            TokenError::BadClaims(_) => Self::Claims,
        }
    }
}

label! {
    /// Which rate or count was exceeded.
    RateLimit("what") {
        /// What one connection may ask per second, or have unanswered.
        Connection = "connection",
        /// What one user may ask per second, over all instances.
        User = "user",
        /// Connections in all.
        Connections = "connections",
        /// Connections of a user.
        ConnectionsPerUser = "connections_per_user",
        /// Connections from an address.
        ConnectionsPerIp = "connections_per_ip",
        /// Connections that are no WebSocket, or not yet.
        HttpConnections = "http_connections",
        /// Those from an address.
        HttpConnectionsPerIp = "http_connections_per_ip",
        /// Resident memory.
        Memory = "memory",
    }
}
