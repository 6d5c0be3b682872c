//! The label values of the metrics: closed sets, so that every series exists from the start and none is
//! misspelt, and counting one is an addition to an atomic.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::auth::TokenError;
use crate::protocol::error::CloseCode;
use crate::protocol::op::Outcome;
use crate::protocol::server::ResyncReason;

/// A closed set of label values.
pub trait Label: Copy {
    /// How many there are.
    const COUNT: usize;
    /// All of them, in the order of [`Label::index`].
    fn all() -> Vec<Self>;
    /// This one's place among all.
    fn index(self) -> usize;
    /// Names and values, as they are exposed.
    fn pairs(self) -> Vec<(&'static str, &'static str)>;
}

impl<A: Label, B: Label> Label for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn all() -> Vec<Self> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn pairs(self) -> Vec<(&'static str, &'static str)> {
        [self.0.pairs(), self.1.pairs()].concat()
    }
}

/// What [`Labelled`] are registered as.
pub(super) type LabelledFamily<M> = Family<Vec<(&'static str, &'static str)>, M>;

/// One metric for each value of a label; all exist from the start.
#[derive(Debug)]
pub struct Labelled<L, M> {
    metrics: Box<[M]>,
    label: std::marker::PhantomData<fn(L)>,
}

/// One counter for each value of a label.
pub type Counters<L> = Labelled<L, Counter>;
/// One gauge for each value of a label.
pub type Gauges<L> = Labelled<L, Gauge>;

impl<L: Label, M: Clone + Default> Labelled<L, M> {
    /// The metrics, and what to register.
    pub(super) fn new() -> (Self, LabelledFamily<M>) {
        let family = LabelledFamily::default();
        let all = L::all();
        let metrics = all.iter().map(|label| family.get_or_create_owned(&label.pairs())).collect();
        (Self { metrics, label: std::marker::PhantomData }, family)
    }

    /// The metric of one value: a plain atomic.
    pub fn of(&self, label: L) -> &M {
        &self.metrics[label.index()]
    }
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident($key:literal) { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
        }

        impl $name {
            /// The value as it is exposed.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl Label for $name {
            const COUNT: usize = [$(Self::$variant,)*].len();

            fn all() -> Vec<Self> {
                vec![$(Self::$variant,)*]
            }

            fn index(self) -> usize {
                self as usize
            }

            fn pairs(self) -> Vec<(&'static str, &'static str)> {
                vec![($key, self.as_str())]
            }
        }
    };
}

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
        /// A record of the log of requests: its queue was full, or the store did not take it.
        SyncLog = "sync_log",
    }
}

label! {
    /// How an operation ended.
    WriteOutcome("outcome") {
        /// It changed the log.
        Applied = "applied",
        /// It was right and changed nothing.
        Noop = "noop",
        /// It changed the log together with somebody else's edit.
        Merged = "merged",
        /// Somebody else's edit stands.
        Superseded = "superseded",
        /// It waits for its user's decision.
        Conflict = "conflict",
        /// It was refused for good.
        Rejected = "rejected",
        /// It was known already and got its first verdict again.
        Replayed = "replayed",
    }
}

impl From<Outcome> for WriteOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Merged => Self::Merged,
            Outcome::Noop => Self::Noop,
            Outcome::Superseded => Self::Superseded,
            Outcome::Conflict => Self::Conflict,
            Outcome::Rejected => Self::Rejected,
        }
    }
}

label! {
    /// Why an operation was refused for good: the code of its verdict.
    Rejection("code") {
        /// There is no such entity.
        NotFound = "not_found",
        /// It was deleted.
        Deleted = "deleted",
        /// The conflict to resolve is not open.
        NotOpen = "not_open",
        /// Nobody knows the client's own name.
        UnknownLocalId = "unknown_local_id",
        /// Another operation of its group failed.
        GroupFailed = "group_failed",
        /// The role does not grant it.
        Forbidden = "forbidden",
        /// It exceeds a limit.
        LimitExceeded = "limit_exceeded",
        /// The database does not take its data.
        Unstorable = "unstorable",
        /// It makes no sense.
        BadRequest = "bad_request",
        /// Anything else.
        Other = "other",
    }
}

impl Rejection {
    /// The value for a verdict's code.
    #[must_use]
    pub fn from_code(code: &str) -> Self {
        Self::all().into_iter().find(|one| one.as_str() == code).unwrap_or(Self::Other)
    }
}

label! {
    /// Where a catch-up was read from.
    CatchUpSource("source") {
        /// Recent changes in memory.
        Recent = "recent",
        /// The store.
        Store = "store",
    }
}

label! {
    /// Why a cursor was of no use.
    Resync("reason") {
        /// The log no longer reaches back that far.
        CursorTooOld = "cursor_too_old",
        /// The sequence was replaced.
        EpochChanged = "epoch_changed",
        /// A new token reads with another role.
        ScopeChanged = "scope_changed",
    }
}

impl From<ResyncReason> for Resync {
    fn from(reason: ResyncReason) -> Self {
        match reason {
            ResyncReason::CursorTooOld => Self::CursorTooOld,
            ResyncReason::EpochChanged => Self::EpochChanged,
            ResyncReason::ScopeChanged => Self::ScopeChanged,
        }
    }
}

label! {
    /// The way a backend's event came.
    IngestWay("way") {
        /// The Redis stream.
        Stream = "stream",
        /// The Redis channel.
        PubSub = "pubsub",
        /// `POST /v1/publish`.
        Http = "http",
    }
}

label! {
    /// What became of a backend's event.
    IngestOutcome("outcome") {
        /// It entered the log, or was broadcast.
        Applied = "applied",
        /// Its id was known.
        Duplicate = "duplicate",
        /// A newer version of its source had been applied.
        Stale = "stale",
        /// It cannot be applied and is a dead letter.
        Dead = "dead",
        /// It was refused: not signed, not well formed, or not applicable.
        Refused = "refused",
        /// The store did not answer; it stays in the stream and is tried again.
        Retried = "retried",
        /// It came by the channel, and the store or Redis did not answer.
        Lost = "lost",
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

label! {
    /// What was purged.
    Purged("table") {
        /// The change log.
        Changes = "changes",
        /// Tombstones of deleted entities.
        Tombstones = "tombstones",
        /// Verdicts of operations and events.
        Verdicts = "verdicts",
        /// Ids given to what clients named themselves.
        Mappings = "mappings",
        /// Conflicts that are decided.
        Conflicts = "conflicts",
        /// Records of the log of requests.
        Requests = "requests",
        /// Devices not seen any more.
        Devices = "devices",
        /// Revocations that expired.
        Revocations = "revocations",
        /// What users were notified of.
        Notifications = "notifications",
    }
}

label! {
    /// A step in the life of a push intent.
    PushState("state") {
        /// Written with the event; waits for its grace to pass.
        Waiting = "waiting",
        /// A worker has it.
        Claimed = "claimed",
        /// Handed to the provider.
        Done = "done",
        /// An acknowledgement came before it was sent.
        Canceled = "canceled",
        /// Too old to be of use.
        Expired = "expired",
        /// The user's preferences or quiet hours held it back.
        Suppressed = "suppressed",
    }
}

impl PushState {
    /// The state as it stands in the store.
    #[must_use]
    pub fn read(state: &str) -> Self {
        Self::all().into_iter().find(|known| known.as_str() == state).unwrap_or(Self::Done)
    }
}

label! {
    /// What happened to a push on a device.
    PushEvent("event") {
        /// The provider accepted it.
        Sent = "sent",
        /// The provider handed it over to the device's platform.
        Handed = "handed",
        /// The device says it got it.
        Delivered = "delivered",
        /// Somebody opened it.
        Opened = "opened",
        /// It never will get there.
        Failed = "failed",
        /// Nobody knows what became of it.
        Missing = "missing",
        /// It was not sent: its user may not be told any more.
        Canceled = "canceled",
    }
}

impl PushEvent {
    /// The event as it stands in the store.
    #[must_use]
    pub fn read(event: &str) -> Self {
        Self::all().into_iter().find(|known| known.as_str() == event).unwrap_or(Self::Failed)
    }
}

label! {
    /// Through whom a push goes.
    PushVia("provider") {
        /// Expo.
        Expo = "expo",
        /// The log, for development.
        Log = "log",
    }
}

impl PushVia {
    /// The provider of this name.
    #[must_use]
    pub fn read(name: &str) -> Self {
        Self::all().into_iter().find(|known| known.as_str() == name).unwrap_or(Self::Log)
    }
}

label! {
    /// What a push that has not ended waits for.
    PushWait("state") {
        /// Its grace, quiet hours or its window.
        Waiting = "waiting",
        /// Its time.
        Scheduled = "scheduled",
        /// To be sent.
        Queued = "queued",
        /// To be sent again.
        Retry = "retry",
        /// The provider's answer.
        Sending = "sending",
        /// Its receipt.
        Accepted = "accepted",
    }
}

label! {
    /// Why a provider gets nothing, or why what it says is doubted.
    PushHold("reason") {
        /// It fails or asks to wait.
        Breaker = "breaker",
        /// It does not accept the credentials.
        Credentials = "credentials",
        /// So many tokens are dead at once that none is disabled.
        DeadTokens = "dead_tokens",
    }
}

label! {
    /// How urgent a push is.
    PushLane("lane") {
        /// An emergency.
        Critical = "critical",
        /// Someone is waiting.
        High = "high",
        /// Everything else.
        Normal = "normal",
    }
}

impl PushLane {
    /// The lane as it stands in the store.
    #[must_use]
    pub fn read(lane: &str) -> Self {
        Self::all().into_iter().find(|known| known.as_str() == lane).unwrap_or(Self::Normal)
    }
}
