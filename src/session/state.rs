//! What a frame asks, and whether it may be asked now: a machine without I/O.
//!
//! Time is an argument. The connection's task feeds it text frames and ticks and does what the returned
//! [`Step`] or [`Tick`] says. Fuzzed alone.

use tokio::time::{Duration, Instant};

use crate::config::{Auth, Limits, Server};
use crate::protocol::client::{
    Ack, Broadcast, ClientFrame, Connect, Envelope, Kind, PushDevice, RequestId, SetPresence,
    Subscribe, Unreadable, Unsubscribe, Write,
};
use crate::protocol::error::{CloseCode, ErrorCode, Refusal};
use crate::quota::TokenBucket;

/// Bytes of a message before there is a token: more than any token that is believed, and little enough to
/// keep for every stranger.
const NAMELESS_FRAME_BYTES: usize = 16 << 10;

/// The protocol state of one connection.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    in_flight: u32,
    ops: TokenBucket,
    broadcasts: TokenBucket,
    presence: TokenBucket,
    frames: TokenBucket,
    /// Rooms joined and left, each of which is work: twice all it may be in at once, then as many a second.
    rooms: TokenBucket,
    /// What it may be told that it is too fast. Who goes on regardless is closed: an answer costs about what
    /// an ordinary frame does, so as many are given as of those.
    refusals: TokenBucket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No token yet.
    Waiting { since: Instant },
    /// A token is being verified.
    Verifying { since: Instant },
    /// The token is good until then, in Unix seconds.
    Open { expires_at: i64, warned: bool },
}

/// What to do about a frame.
#[derive(Debug)]
pub enum Step {
    /// Verify a token: the first one, or with `refresh` a replacement.
    Authenticate {
        /// Of the request.
        id: Option<RequestId>,
        /// The token.
        token: String,
        /// What else the client said of itself.
        connect: Option<Connect>,
    },
    /// The client introduces itself on a connection that is open already.
    Introduce(Option<RequestId>, Connect),
    /// Join rooms.
    Subscribe(Option<RequestId>, Subscribe),
    /// Leave rooms.
    Unsubscribe(Option<RequestId>, Unsubscribe),
    /// Write to the log.
    Write(Option<RequestId>, Write),
    /// Say something to a room.
    Broadcast(Option<RequestId>, Broadcast),
    /// Set the presence state.
    Presence(Option<RequestId>, SetPresence),
    /// Note what the client has stored.
    Ack(Option<RequestId>, Ack),
    /// Register a push token, or take it back.
    PushDevice(Option<RequestId>, PushDevice),
    /// Answer `pong`.
    Pong(Option<RequestId>),
    /// Answer with an error; the connection lives.
    Refuse(Option<RequestId>, Refusal),
    /// Close.
    Close(CloseCode),
}

/// What is due on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// Nothing.
    Idle,
    /// Nothing was heard for a while: send a ping.
    Ping,
    /// The token expires in so many seconds: warn.
    Expiring(u64),
    /// Close.
    Close(CloseCode),
}

impl Session {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting { since: now },
            heard_at: now,
            pinged_at: None,
            in_flight: 0,
            ops: TokenBucket::new(limits.ops_per_second, now),
            broadcasts: TokenBucket::new(limits.broadcasts_per_second, now),
            presence: TokenBucket::new(limits.presence_per_second, now),
            frames: TokenBucket::new(limits.frames_per_second, now),
            rooms: TokenBucket::new(u32::try_from(limits.rooms).unwrap_or(u32::MAX), now),
            refusals: TokenBucket::new(limits.frames_per_second, now),
        }
    }

    /// The token was found good until `expires_at`, in Unix seconds.
    pub fn authenticated(&mut self, expires_at: i64) {
        self.phase = Phase::Open { expires_at, warned: false };
    }

    /// The first token was found bad; the client may try another until its time is over.
    pub fn not_authenticated(&mut self) {
        if let Phase::Verifying { since } = self.phase {
            self.phase = Phase::Waiting { since };
        }
    }

    /// Something arrived from the peer: it lives.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.pinged_at = None;
    }

    /// Bytes that the next message may have.
    #[must_use]
    pub fn frame_bytes(&self, limits: &Limits) -> usize {
        match self.phase {
            Phase::Open { .. } => limits.frame_bytes,
            Phase::Waiting { .. } | Phase::Verifying { .. } => {
                limits.frame_bytes.min(NAMELESS_FRAME_BYTES)
            }
        }
    }

    /// A request that [`Self::frame`] let through was answered.
    pub fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Reads one text frame.
    pub fn frame(&mut self, text: &str, now: Instant, limits: &Limits) -> Step {
        match self.hear(text, now, limits) {
            Ok(step) => step,
            Err((_, refusal)) if refusal.code == ErrorCode::RateLimited && self.floods(now) => {
                Step::Close(CloseCode::RateLimited)
            }
            Err((id, refusal)) => Step::Refuse(id, refusal),
        }
    }

    /// Whether to answer a ping of the WebSocket's own. It costs what a frame does.
    ///
    /// # Errors
    /// The code to close with: it was one too many.
    pub fn ping(&mut self, now: Instant) -> Result<bool, CloseCode> {
        match self.frames.take(1, now) {
            Ok(()) => Ok(true),
            Err(_) if self.floods(now) => Err(CloseCode::RateLimited),
            Err(_) => Ok(false),
        }
    }

    /// Whether a refusal of what came too fast was one too many.
    fn floods(&mut self, now: Instant) -> bool {
        self.refusals.take(1, now).is_err()
    }

    fn hear(&mut self, text: &str, now: Instant, limits: &Limits) -> Result<Step, Unreadable> {
        let envelope = match Envelope::read(text) {
            Ok(envelope) => envelope,
            Err((id, refusal)) => {
                let paid = self.frames.take(1, now).map_err(too_fast);
                return Err((id, paid.err().unwrap_or(refusal)));
            }
        };
        match self.ask(&envelope, now, limits) {
            Ok(frame) => Ok(self.step(envelope.id, frame)),
            Err(refusal) => Err((envelope.id, refusal)),
        }
    }

    /// Reads what is asked, if it may be asked now.
    fn ask(
        &mut self,
        envelope: &Envelope<'_>,
        now: Instant,
        limits: &Limits,
    ) -> Result<ClientFrame, Refusal> {
        // Who has nothing left costs no more than this look at the envelope.
        let mut left = *self.bucket(envelope.kind);
        left.take(1, now).map_err(too_fast)?;
        let asked = self.may_ask(envelope.kind, limits).and_then(|()| {
            let frame = envelope.frame()?;
            check(&frame, limits)?;
            Ok(frame)
        });
        let (cost, rooms) = asked.as_ref().map_or((1, 0), cost);
        self.bucket(envelope.kind).take(cost, now).map_err(too_fast)?;
        self.rooms.take(rooms, now).map_err(too_fast)?;
        asked
    }

    fn step(&mut self, id: Option<RequestId>, frame: ClientFrame) -> Step {
        match frame {
            ClientFrame::Connect(connect) => self.connect(id, connect),
            ClientFrame::Refresh(refresh) => {
                Step::Authenticate { id, token: refresh.token, connect: None }
            }
            ClientFrame::Subscribe(subscribe) => {
                self.in_flight += 1;
                Step::Subscribe(id, subscribe)
            }
            ClientFrame::Write(write) => {
                self.in_flight += 1;
                Step::Write(id, write)
            }
            ClientFrame::Unsubscribe(unsubscribe) => Step::Unsubscribe(id, unsubscribe),
            ClientFrame::Broadcast(broadcast) => Step::Broadcast(id, broadcast),
            ClientFrame::Presence(presence) => Step::Presence(id, presence),
            ClientFrame::Ack(ack) => Step::Ack(id, ack),
            ClientFrame::PushDevice(device) => {
                self.in_flight += 1;
                Step::PushDevice(id, device)
            }
            ClientFrame::Ping => Step::Pong(id),
        }
    }

    fn connect(&mut self, id: Option<RequestId>, mut connect: Connect) -> Step {
        match (self.phase, connect.token.take()) {
            (Phase::Waiting { since }, Some(token)) => {
                self.phase = Phase::Verifying { since };
                Step::Authenticate { id, token, connect: Some(connect) }
            }
            (Phase::Open { .. }, Some(token)) => {
                Step::Authenticate { id, token, connect: Some(connect) }
            }
            (Phase::Open { .. }, None) => Step::Introduce(id, connect),
            (_, _) => Step::Refuse(
                id,
                Refusal::new(ErrorCode::Unauthorized, "`connect` needs a `token` here"),
            ),
        }
    }

    fn may_ask(&self, kind: Kind, limits: &Limits) -> Result<(), Refusal> {
        let open = matches!(self.phase, Phase::Open { .. });
        if !open && !matches!(kind, Kind::Connect | Kind::Ping) {
            return Err(Refusal::new(ErrorCode::Unauthorized, "send `connect` with a token first"));
        }
        let waits = matches!(kind, Kind::Subscribe | Kind::Write | Kind::PushDevice);
        if waits && self.in_flight as usize >= limits.requests_in_flight {
            let limit = limits.requests_in_flight as u64;
            return Err(Refusal::limit("requests_in_flight", limit).retry_after(100));
        }
        Ok(())
    }

    fn bucket(&mut self, kind: Kind) -> &mut TokenBucket {
        match kind {
            Kind::Write => &mut self.ops,
            Kind::Broadcast => &mut self.broadcasts,
            Kind::Presence => &mut self.presence,
            _ => &mut self.frames,
        }
    }

    /// What is due. Called about once a second.
    pub fn tick(&mut self, now: Instant, now_s: i64, server: &Server, auth: &Auth) -> Tick {
        if let Some(tick) = self.token_tick(now, now_s, server, auth) {
            return tick;
        }
        let silent = now.saturating_duration_since(self.heard_at);
        match self.pinged_at {
            // Since the ping, not since the last word: an instance that was too busy to ping gave no chance to
            // answer.
            Some(pinged) if now.saturating_duration_since(pinged) >= server.pong_timeout => {
                Tick::Close(CloseCode::NoPong)
            }
            None if silent >= server.ping_interval => {
                self.pinged_at = Some(now);
                Tick::Ping
            }
            _ => Tick::Idle,
        }
    }

    fn token_tick(
        &mut self,
        now: Instant,
        now_s: i64,
        server: &Server,
        auth: &Auth,
    ) -> Option<Tick> {
        match &mut self.phase {
            Phase::Waiting { since } | Phase::Verifying { since } => {
                (now.saturating_duration_since(*since) >= server.connect_timeout)
                    .then_some(Tick::Close(CloseCode::ConnectTimeout))
            }
            Phase::Open { expires_at, warned } => {
                let left = expires_at.saturating_sub(now_s);
                let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                if left.saturating_add(seconds(auth.expiry_grace)) <= 0 {
                    return Some(Tick::Close(CloseCode::TokenExpired));
                }
                if !*warned && left <= seconds(auth.expiry_warning) {
                    *warned = true;
                    return Some(Tick::Expiring(u64::try_from(left).unwrap_or(0)));
                }
                None
            }
        }
    }
}

/// Whether what is asked keeps to the limits.
fn check(frame: &ClientFrame, limits: &Limits) -> Result<(), Refusal> {
    match frame {
        ClientFrame::Presence(p) if p.state.get().len() > limits.presence_bytes => {
            Err(Refusal::limit("presence_bytes", limits.presence_bytes as u64))
        }
        ClientFrame::Broadcast(b) if b.event.is_empty() || b.event.chars().count() > 64 => {
            Err(Refusal::new(ErrorCode::BadRequest, "`event` must have 1 to 64 characters"))
        }
        _ if rooms(frame) > limits.rooms => Err(Refusal::limit("rooms", limits.rooms as u64)),
        _ => Ok(()),
    }
}

/// How many rooms a frame is about to join or to leave.
fn rooms(frame: &ClientFrame) -> usize {
    match frame {
        ClientFrame::Subscribe(subscribe) => subscribe.rooms.len(),
        ClientFrame::Unsubscribe(unsubscribe) => unsubscribe.rooms.len(),
        _ => 0,
    }
}

/// What a frame takes from the bucket of its kind, and of rooms.
fn cost(frame: &ClientFrame) -> (u32, u32) {
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    match frame {
        ClientFrame::Write(write) => (number(write.ops.len()).max(1), 0),
        _ => (1, number(rooms(frame))),
    }
}

/// The refusal of a request that came too soon after others.
#[must_use]
pub fn too_fast(wait: Duration) -> Refusal {
    let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    Refusal::new(ErrorCode::RateLimited, "too many requests; slow down").retry_after(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (Session, Limits, Instant) {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut session = Session::new(&limits, now);
        session.authenticated(1000);
        (session, limits, now)
    }

    fn refused(step: Step) -> ErrorCode {
        match step {
            Step::Refuse(_, refusal) => refusal.code,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn nothing_but_connect_and_ping_is_heard_before_a_token() {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut session = Session::new(&limits, now);
        for text in [
            r#"{"type":"subscribe","rooms":[]}"#,
            r#"{"type":"write","project":"p","ops":[]}"#,
            r#"{"type":"refresh","token":"t"}"#,
            r#"{"type":"ack","active":true}"#,
            r#"{"type":"connect"}"#,
        ] {
            assert_eq!(
                refused(session.frame(text, now, &limits)),
                ErrorCode::Unauthorized,
                "{text}"
            );
        }
        let connect = r#"{"type":"connect","token":"t"}"#;
        assert!(matches!(session.frame(connect, now, &limits), Step::Authenticate { .. }));
        assert_eq!(refused(session.frame(connect, now, &limits)), ErrorCode::Unauthorized);
        session.not_authenticated();
        assert!(matches!(session.frame(connect, now, &limits), Step::Authenticate { .. }));
    }

    #[test]
    fn nobody_counts_as_dead_who_was_not_pinged() {
        let (mut session, _, now) = open();
        let (server, auth) = (Server::default(), Auth::default());
        // The instance was busy for longer than a ping and its answer may take.
        let late = now + server.ping_interval + 2 * server.pong_timeout;
        assert_eq!(session.tick(late, 0, &server, &auth), Tick::Ping);
        let waiting = late + server.pong_timeout - Duration::from_millis(1);
        assert_eq!(session.tick(waiting, 0, &server, &auth), Tick::Idle);
        let over = late + server.pong_timeout;
        assert_eq!(session.tick(over, 0, &server, &auth), Tick::Close(CloseCode::NoPong));
        session.heard(over);
        assert_eq!(session.tick(over, 0, &server, &auth), Tick::Idle);
    }

    #[test]
    fn a_flood_is_refused_with_a_time_to_wait_and_heals() {
        let (mut session, limits, now) = open();
        let text = r#"{"type":"broadcast","room":"room:p:x","event":"e"}"#;
        let mut accepted = 0;
        let refusal = loop {
            match session.frame(text, now, &limits) {
                Step::Broadcast(..) => accepted += 1,
                Step::Refuse(_, refusal) => break refusal,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(accepted, limits.broadcasts_per_second * 2);
        let wait = Duration::from_millis(refusal.retry_after_ms.unwrap());
        assert!(matches!(session.frame(text, now + wait, &limits), Step::Broadcast(..)));
    }

    #[test]
    fn who_floods_on_is_closed_and_who_is_a_little_too_fast_is_not() {
        let text = r#"{"type":"ping","id":1}"#;
        let (mut session, limits, now) = open();
        let mut answered = 0;
        while let Step::Pong(_) | Step::Refuse(..) = session.frame(text, now, &limits) {
            answered += 1;
            assert!(answered <= 2 * 2 * limits.frames_per_second, "more than a burst of each");
        }
        let step = session.frame(text, now, &limits);
        assert!(matches!(step, Step::Close(CloseCode::RateLimited)), "{step:?}");

        // A minute at one and a half times the rate.
        let (mut session, ..) = open();
        for n in 0..60 * limits.frames_per_second * 3 / 2 {
            let at = now + Duration::from_secs(n.into()) * 2 / 3 / limits.frames_per_second;
            let step = session.frame(text, at, &limits);
            assert!(matches!(step, Step::Pong(_) | Step::Refuse(..)), "{n}: {step:?}");
        }
    }

    #[test]
    fn pings_of_the_websocket_are_metered_too() {
        let (mut session, limits, now) = open();
        let burst = 2 * limits.frames_per_second;
        for expected in [Ok(true), Ok(false)] {
            for _ in 0..burst {
                assert_eq!(session.ping(now), expected);
            }
        }
        assert_eq!(session.ping(now), Err(CloseCode::RateLimited));
    }

    #[test]
    fn rooms_are_joined_and_left_so_many_at_once_and_a_second() {
        let (limits, now) = (Limits { rooms: 3, ..Limits::default() }, Instant::now());
        let mut session = Session::new(&limits, now);
        session.authenticated(1000);
        let text = |kind: &str, count: usize| {
            let room = if kind == "subscribe" { r#"{"room":"a"}"# } else { r#""a""# };
            format!(r#"{{"type":"{kind}","rooms":[{}]}}"#, vec![room; count].join(","))
        };
        for kind in ["subscribe", "unsubscribe"] {
            let step = session.frame(&text(kind, 4), now, &limits);
            assert_eq!(refused(step), ErrorCode::LimitExceeded, "{kind}");
        }
        assert!(matches!(session.frame(&text("subscribe", 3), now, &limits), Step::Subscribe(..)));
        let left = session.frame(&text("unsubscribe", 3), now, &limits);
        assert!(matches!(left, Step::Unsubscribe(..)));
        for kind in ["subscribe", "unsubscribe"] {
            let step = session.frame(&text(kind, 1), now, &limits);
            assert_eq!(refused(step), ErrorCode::RateLimited, "{kind}");
        }
        let later = now + Duration::from_secs(1);
        assert!(matches!(
            session.frame(&text("subscribe", 3), later, &limits),
            Step::Subscribe(..)
        ));
    }

    #[test]
    fn unanswered_requests_are_bounded() {
        let (mut session, mut limits, now) = open();
        limits.requests_in_flight = 2;
        let text = r#"{"type":"write","project":"p","ops":[]}"#;
        for _ in 0..2 {
            assert!(matches!(session.frame(text, now, &limits), Step::Write(..)));
        }
        assert_eq!(refused(session.frame(text, now, &limits)), ErrorCode::LimitExceeded);
        session.answered();
        assert!(matches!(session.frame(text, now, &limits), Step::Write(..)));
    }

    #[test]
    fn silence_is_answered_with_a_ping_and_then_the_end() {
        let (mut session, _, start) = open();
        let (server, auth) = (Server::default(), Auth::default());
        let mut at =
            |seconds| session.tick(start + Duration::from_secs(seconds), 0, &server, &auth);
        assert_eq!(at(24), Tick::Idle);
        assert_eq!(at(25), Tick::Ping);
        assert_eq!(at(26), Tick::Idle, "one ping is enough");
        assert_eq!(at(34), Tick::Idle);
        assert_eq!(at(35), Tick::Close(CloseCode::NoPong));
        session.heard(start + Duration::from_secs(34));
        let later = start + Duration::from_secs(35);
        assert_eq!(session.tick(later, 0, &server, &auth), Tick::Idle);
    }

    #[test]
    fn a_token_is_warned_about_then_outlived_a_little() {
        let (mut session, _, now) = open();
        let (server, auth) = (Server::default(), Auth::default());
        let mut at = |now_s| session.tick(now, now_s, &server, &auth);
        assert_eq!(at(939), Tick::Idle);
        assert_eq!(at(941), Tick::Expiring(59));
        assert_eq!(at(942), Tick::Idle);
        assert_eq!(at(1024), Tick::Idle);
        assert_eq!(at(1025), Tick::Close(CloseCode::TokenExpired));
        session.authenticated(5000);
        assert_eq!(session.tick(now, 1025, &server, &auth), Tick::Idle);
    }

    #[test]
    fn a_socket_without_a_token_is_closed_in_time() {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut session = Session::new(&limits, now);
        let (server, auth) = (Server::default(), Auth::default());
        let late = now + server.connect_timeout;
        assert_eq!(session.tick(late, 0, &server, &auth), Tick::Close(CloseCode::ConnectTimeout));
    }
}
