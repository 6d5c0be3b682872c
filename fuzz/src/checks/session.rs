//! The session machine, under any order of frames, verdicts of the authenticator, answers and ticks,
//! keeps to the protocol: a model of a few numbers knows what it may let through.

use arbitrary::Unstructured;
use syncline::config::{Auth, Limits, Server};
use syncline::protocol::error::{CloseCode, ErrorCode};
use syncline::session::state::{Session, Step, Tick};
use tokio::time::{Duration, Instant};

use super::{choose, number};

const FRAMES: [&str; 22] = [
    r#"{"type":"ping","id":1}"#,
    r#"{"type":"connect","token":"t"}"#,
    r#"{"type":"connect"}"#,
    r#"{"type":"connect","client":"c","active":true,"device":{}}"#,
    r#"{"type":"refresh","token":"t"}"#,
    r#"{"type":"subscribe","rooms":[]}"#,
    r#"{"type":"subscribe","rooms":[{"room":"project:p","since":3,"presence":true}]}"#,
    r#"{"type":"subscribe","rooms":[{"room":"a"},{"room":"b"},{"room":"c"},{"room":"d"}]}"#,
    r#"{"type":"unsubscribe","rooms":["project:p"]}"#,
    r#"{"type":"write","project":"p","ops":[]}"#,
    r#"{"type":"write","project":"p","ops":[1]}"#,
    r#"{"type":"write","project":"p","ops":[1,2,3,4]}"#,
    r#"{"type":"broadcast","room":"room:p:x","event":"e"}"#,
    r#"{"type":"broadcast","room":"room:p:x","event":""}"#,
    r#"{"type":"presence","room":"room:p:x","state":null}"#,
    r#"{"type":"presence","room":"room:p:x","state":"more than sixteen bytes"}"#,
    r#"{"type":"ack","project":"p","seq":9}"#,
    r#"{"type":"ack","active":false}"#,
    r#"{"type":"dance","id":"x"}"#,
    r#"{"type":"write","project":"p:"}"#,
    "[]",
    "",
];

/// What the machine may let through.
struct Model {
    limits: Limits,
    server: Server,
    auth: Auth,
    now: Instant,
    now_s: i64,
    open: bool,
    verifying: bool,
    unanswered: usize,
    /// A ping was sent and nothing was heard since.
    pinged: bool,
    /// This token's end was warned of.
    warned: bool,
}

/// Input: limits, then what happens to a connection, until the input or the connection ends.
pub(super) fn check(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let limits = Limits {
        rooms: number(&mut input, 1..=3) as usize,
        ops_per_write: number(&mut input, 1..=3) as usize,
        presence_bytes: 16,
        requests_in_flight: number(&mut input, 1..=4) as usize,
        ops_per_second: number(&mut input, 0..=4),
        broadcasts_per_second: number(&mut input, 0..=4),
        presence_per_second: number(&mut input, 0..=4),
        frames_per_second: number(&mut input, 0..=20),
        ..Limits::default()
    };
    let now = Instant::now();
    let mut session = Session::new(&limits, now);
    let mut model = Model {
        limits,
        server: Server::default(),
        auth: Auth::default(),
        now,
        now_s: 1_800_000_000,
        open: false,
        verifying: false,
        unanswered: 0,
        pinged: false,
        warned: false,
    };
    while !input.is_empty() && model.happens(&mut session, &mut input) {}
}

impl Model {
    /// One event; false once the connection is to be closed.
    fn happens(&mut self, session: &mut Session, input: &mut Unstructured<'_>) -> bool {
        match number(input, 0..=9) {
            0..=4 => return self.frame(session, choose(input, &FRAMES)),
            5 => {
                let length = usize::from(input.arbitrary::<u8>().unwrap_or_default());
                let bytes = input.bytes(length.min(input.len())).unwrap_or_default();
                return self.frame(session, &String::from_utf8_lossy(bytes));
            }
            6 => {
                let ms = number(input, 0..=60_000);
                self.now += Duration::from_millis(ms.into());
                self.now_s += i64::from(ms / 1000);
            }
            7 => return self.tick(session),
            8 => self.verdict(session, input),
            _ => {
                if input.arbitrary().unwrap_or_default() {
                    session.heard(self.now);
                    self.pinged = false;
                } else {
                    session.answered();
                    self.unanswered = self.unanswered.saturating_sub(1);
                }
            }
        }
        true
    }

    fn verdict(&mut self, session: &mut Session, input: &mut Unstructured<'_>) {
        if input.arbitrary().unwrap_or_default() {
            let expires_at = match number(input, 0..=3) {
                0 => input.arbitrary().unwrap_or_default(),
                _ => self.now_s + i64::from(number(input, 0..=7200)) - 60,
            };
            session.authenticated(expires_at);
            (self.open, self.verifying, self.warned) = (true, false, false);
        } else {
            session.not_authenticated();
            self.verifying = false;
        }
    }

    fn frame(&mut self, session: &mut Session, text: &str) -> bool {
        let step = session.frame(text, self.now, &self.limits);
        let before_token = matches!(
            step,
            Step::Pong(_)
                | Step::Refuse(..)
                | Step::Close(_)
                | Step::Authenticate { connect: Some(_), .. }
        );
        assert!(self.open || before_token, "before a token: {step:?}");
        match step {
            Step::Authenticate { .. } if !self.open => {
                assert!(!self.verifying, "two tokens at a time before the first is good");
                self.verifying = true;
            }
            Step::Subscribe(_, subscribe) => {
                assert!(subscribe.rooms.len() <= self.limits.rooms);
                self.unanswered += 1;
            }
            Step::Write(..) => self.unanswered += 1,
            Step::Broadcast(_, broadcast) => {
                assert!((1..=64).contains(&broadcast.event.chars().count()));
            }
            Step::Presence(_, presence) => {
                assert!(presence.state.get().len() <= self.limits.presence_bytes);
            }
            Step::Refuse(_, refusal) if refusal.code == ErrorCode::RateLimited => {
                let wait = refusal.retry_after_ms.expect("a time to wait");
                assert!((1..=10_000).contains(&wait), "wait {wait} ms");
            }
            Step::Close(code) => {
                assert_eq!(code, CloseCode::RateLimited);
                return false;
            }
            _ => {}
        }
        assert!(
            self.unanswered <= self.limits.requests_in_flight,
            "{} unanswered",
            self.unanswered
        );
        true
    }

    fn tick(&mut self, session: &mut Session) -> bool {
        let mut tick = || session.tick(self.now, self.now_s, &self.server, &self.auth);
        match tick() {
            Tick::Idle => {}
            Tick::Ping => {
                assert!(!std::mem::replace(&mut self.pinged, true), "pinged twice");
            }
            Tick::Expiring(_) => {
                assert!(self.open && !std::mem::replace(&mut self.warned, true), "warned twice");
            }
            closed @ Tick::Close(_) => {
                assert_eq!(tick(), closed, "a connection to be closed stays so");
                return false;
            }
        }
        true
    }
}
