//! Label values of pushes.

use super::Label;

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
        /// It was not sent in time.
        Expired = "expired",
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
