//! Label values of operations, of the log, and of what is kept beside it.

use super::Label;
use crate::protocol::op::Outcome;
use crate::protocol::server::ResyncReason;

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
    /// What was purged.
    Purged("table") {
        /// The change log.
        Changes = "changes",
        /// Tombstones of deleted entities.
        Tombstones = "tombstones",
        /// Verdicts of operations and events.
        Verdicts = "verdicts",
        /// Operations of failed lanes that held too many; their verdicts stay.
        FailedOps = "failed_ops",
        /// Ids given to what clients named themselves.
        Mappings = "mappings",
        /// Conflicts that are decided.
        Conflicts = "conflicts",
        /// Conflicts nobody has decided.
        OpenConflicts = "open_conflicts",
        /// Records of the log of requests.
        Requests = "requests",
        /// Devices not seen any more.
        Devices = "devices",
        /// Revocations that expired.
        Revocations = "revocations",
        /// What users were notified of.
        Notifications = "notifications",
        /// Pushes of devices that came to an end.
        PushDeliveries = "push_deliveries",
        /// Armed pushes that were decided on.
        PushIntents = "push_intents",
        /// What became of pushes, by the minute.
        PushStats = "push_stats",
        /// How many pushes people got, by the minute.
        PushMinutes = "push_minutes",
        /// When something was last pushed under a collapse key.
        PushWindows = "push_windows",
    }
}
