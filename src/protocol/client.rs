//! What clients say: one JSON object a text frame, discriminated by `type`.
//!
//! Unknown fields are ignored, an unknown `type` is an error the connection survives. Reading takes two
//! passes over a small text: first the [`Envelope`], which is enough to decide whether it may be asked now,
//! then the fields of its type. That keeps raw JSON values raw and errors precise.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::checksum;
use super::error::{ErrorCode, Refusal};
use super::json;
use super::notify::Notify;
use super::op::Op;
use crate::id::{ClientId, Epoch, ProjectId, Room, Seq};

/// A client's own number or name for a request, echoed in the reply. At most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum RequestId {
    /// An integer.
    Number(u64),
    /// A text.
    Text(String),
}

/// One request: its id, if the client wants an answer, and what it asks.
#[derive(Debug, Clone)]
pub struct Request {
    /// Echoed in the reply; without it only errors are answered.
    pub id: Option<RequestId>,
    /// What is asked.
    pub frame: ClientFrame,
}

macro_rules! kinds {
    ($($name:ident = $text:literal,)*) => {
        /// The type of a frame: one for each variant of [`ClientFrame`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = concat!("`", $text, "`.")] $name,)*
        }

        impl Kind {
            /// All types, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The type as it stands on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            fn read(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    Connect = "connect",
    Refresh = "refresh",
    Subscribe = "subscribe",
    Unsubscribe = "unsubscribe",
    Write = "write",
    Broadcast = "broadcast",
    Presence = "presence",
    Ack = "ack",
    PushDevice = "push_device",
    Ping = "ping",
}

/// Everything a client can ask.
#[derive(Debug, Clone)]
pub enum ClientFrame {
    /// Introduce this installation, with a token unless the handshake carried it.
    Connect(Connect),
    /// Replace the token in place.
    Refresh(Refresh),
    /// Join rooms.
    Subscribe(Subscribe),
    /// Leave rooms.
    Unsubscribe(Unsubscribe),
    /// Write to the log.
    Write(Write),
    /// Say something to a room, at most once, not stored.
    Broadcast(Broadcast),
    /// Replace this connection's presence state in a room.
    Presence(SetPresence),
    /// Stored by the client up to a position; or foreground/background alone.
    Ack(Ack),
    /// Register this installation's push token, or take it back.
    PushDevice(PushDevice),
    /// Answered by `pong`.
    Ping,
}

/// `connect`.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connect {
    /// The JWT, unless the handshake carried it.
    pub token: Option<String>,
    /// This installation, the same across reconnects.
    pub client: Option<ClientId>,
    /// The device, for diagnostics and push.
    pub device: Option<Box<RawValue>>,
    /// Whether the app is in the foreground.
    pub active: Option<bool>,
}

/// `refresh`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refresh {
    /// The new JWT, of the same user.
    pub token: String,
}

/// `subscribe`: each room is answered on its own.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Subscribe {
    /// The rooms to join.
    pub rooms: Vec<SubscribeRoom>,
}

/// One room of a `subscribe`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SubscribeRoom {
    /// The room's name, checked when it is joined, so that one bad name spoils no other.
    pub room: String,
    /// The last position this client has stored; the changes after it follow. Absent: from now on.
    pub since: Option<Seq>,
    /// The epoch `since` belongs to.
    pub epoch: Option<Epoch>,
    /// The scope `since` was stored with.
    pub scope: Option<String>,
    /// Whether to appear in the room's presence and to hear of it.
    #[serde(default)]
    pub presence: bool,
}

/// `unsubscribe`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unsubscribe {
    /// The rooms to leave; unknown ones are no error.
    pub rooms: Vec<String>,
}

/// `write`, and the body of `POST …/ops`.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "SentWrite")]
pub struct Write {
    /// The project all the operations belong to; HTTP names it in the path.
    pub project: Option<ProjectId>,
    /// The installation that writes; a socket's is known.
    pub client: Option<ClientId>,
    /// The operations, read one by one, so that one malformed op spoils no other.
    pub ops: Vec<Box<RawValue>>,
    /// Whether they are what their checksum says; true without one.
    pub intact: bool,
    /// When it was sent, in milliseconds since the Unix epoch by the client's clock.
    pub sent_at: Option<i64>,
}

/// A `write` as it is sent.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "Write"))]
pub(crate) struct SentWrite {
    project: Option<ProjectId>,
    client: Option<ClientId>,
    #[cfg_attr(test, schemars(with = "Vec<Op>"))]
    ops: Box<RawValue>,
    /// SHA-256 in hex of the text of `ops`.
    checksum: Option<String>,
    sent_at: Option<i64>,
}

impl TryFrom<SentWrite> for Write {
    type Error = serde_json::Error;

    fn try_from(sent: SentWrite) -> Result<Self, serde_json::Error> {
        let SentWrite { project, client, ops, checksum, sent_at } = sent;
        let intact = checksum.is_none_or(|checksum| checksum::matches(ops.get(), &checksum));
        Ok(Self { project, client, ops: serde_json::from_str(ops.get())?, intact, sent_at })
    }
}

impl Write {
    /// That the operations arrived as they were sent.
    ///
    /// # Errors
    /// `checksum_mismatch`, or `limit_exceeded` if they are more than `most`: none of them is to be applied.
    pub fn check(&self, most: usize) -> Result<(), Refusal> {
        if self.ops.len() > most {
            return Err(Refusal::limit("ops_per_write", most as u64));
        }
        if self.intact {
            return Ok(());
        }
        let message = "the operations arrived changed, none was applied; send them again";
        Err(Refusal::new(ErrorCode::ChecksumMismatch, message))
    }

    /// By how much the sender's clock is behind, in milliseconds, as far as `sent_at` tells.
    #[must_use]
    pub fn clock_offset(&self, now_ms: i64) -> i64 {
        self.sent_at.map_or(0, |sent| now_ms.saturating_sub(sent))
    }

    /// Reads one operation.
    ///
    /// # Errors
    /// A `bad_request` that says what is wrong with it.
    pub fn op(raw: &RawValue) -> Result<Op, Refusal> {
        json::check(raw)?;
        let op: Op = serde_json::from_str(raw.get()).map_err(|error| malformed(&error))?;
        op.notify.as_ref().map_or(Ok(()), Notify::check)?;
        Ok(op)
    }
}

/// `broadcast`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Broadcast {
    /// The ephemeral room.
    pub room: Room,
    /// The event's name, for the receivers' dispatch. At most 64 characters.
    pub event: String,
    /// Any JSON.
    pub data: Option<Box<RawValue>>,
}

/// `presence`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SetPresence {
    /// The room, joined with `presence: true`.
    pub room: Room,
    /// Any JSON of at most `limits.presence_bytes`.
    pub state: Box<RawValue>,
}

/// `ack`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ack {
    /// The project acknowledged; absent when only `active` is reported.
    pub project: Option<ProjectId>,
    /// Stored by the client up to here, cumulative.
    pub seq: Option<Seq>,
    /// Whether the app is in the foreground.
    pub active: Option<bool>,
}

/// `push_device`: the full state of this installation, as it is now. The token belongs to the connection's
/// user from then on, whoever had it before.
#[derive(Debug, Clone, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PushDevice {
    /// Whose token it is, e.g. `expo`.
    pub provider: String,
    /// The token; without one the installation is forgotten.
    pub token: Option<String>,
    /// `ios`, `android` or `web`.
    #[serde(default)]
    pub platform: String,
    /// The language, e.g. `pt-BR`.
    pub locale: Option<String>,
    /// The time zone, e.g. `America/Sao_Paulo`.
    pub tz: Option<String>,
    /// The app's version.
    pub app_version: Option<String>,
    /// The device's model.
    pub model: Option<String>,
}

/// What a frame is, before its fields are read.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Echoed in the reply.
    pub id: Option<RequestId>,
    /// What is asked.
    pub kind: Kind,
    text: &'a str,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<RequestId>,
}

/// A frame that could not be read, with the request id if that much could be.
pub type Unreadable = (Option<RequestId>, Refusal);

/// Characters of what is wrong with a frame: the reason may quote a value as long as the frame.
const REASON_CHARS: usize = 200;

fn malformed(error: &serde_json::Error) -> Refusal {
    let mut reason = error.to_string();
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS) {
        reason.truncate(end);
        reason.push('…');
    }
    Refusal::new(ErrorCode::BadRequest, format!("the frame is malformed: {reason}"))
}

/// Checks the values that go on as the text they came as.
fn check_values(frame: &ClientFrame) -> Result<(), Refusal> {
    match frame {
        ClientFrame::Connect(connect) => connect.device.as_deref().map_or(Ok(()), json::check),
        ClientFrame::Broadcast(broadcast) => broadcast.data.as_deref().map_or(Ok(()), json::check),
        ClientFrame::Presence(presence) => json::check(&presence.state),
        ClientFrame::Write(Write { project: None, .. }) => Err(Refusal::new(
            ErrorCode::BadRequest,
            "the frame is malformed: missing field `project`",
        )),
        _ => Ok(()),
    }
}

/// Reads one text frame.
///
/// # Errors
/// The refusal to answer with; the connection lives on.
pub fn decode(text: &str) -> Result<Request, Unreadable> {
    let envelope = Envelope::read(text)?;
    match envelope.frame() {
        Ok(frame) => Ok(Request { id: envelope.id, frame }),
        Err(refusal) => Err((envelope.id, refusal)),
    }
}

impl<'a> Envelope<'a> {
    /// Reads what a frame is; of the rest only whether it is JSON.
    ///
    /// # Errors
    /// As of [`decode`].
    pub fn read(text: &'a str) -> Result<Self, Unreadable> {
        let Head { kind, id } =
            serde_json::from_str(text).map_err(|error| (None, malformed(&error)))?;
        if let Some(RequestId::Text(name)) = &id
            && name.chars().count() > 64
        {
            let message = "`id` must have at most 64 characters";
            return Err((None, Refusal::new(ErrorCode::BadRequest, message)));
        }
        match Kind::read(&kind) {
            Some(kind) => Ok(Self { id, kind, text }),
            None => {
                let shown = kind.chars().take(64).collect::<String>();
                let message = format!("there is no frame type {shown:?}");
                Err((id, Refusal::new(ErrorCode::UnknownType, message)))
            }
        }
    }

    /// Reads the fields.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn frame(&self) -> Result<ClientFrame, Refusal> {
        fn body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
            serde_json::from_str(text).map_err(|error| malformed(&error))
        }
        let text = self.text;
        let frame = match self.kind {
            Kind::Connect => ClientFrame::Connect(body(text)?),
            Kind::Refresh => ClientFrame::Refresh(body(text)?),
            Kind::Subscribe => ClientFrame::Subscribe(body(text)?),
            Kind::Unsubscribe => ClientFrame::Unsubscribe(body(text)?),
            Kind::Write => ClientFrame::Write(body(text)?),
            Kind::Broadcast => ClientFrame::Broadcast(body(text)?),
            Kind::Presence => ClientFrame::Presence(body(text)?),
            Kind::Ack => ClientFrame::Ack(body(text)?),
            Kind::PushDevice => ClientFrame::PushDevice(body(text)?),
            Kind::Ping => ClientFrame::Ping,
        };
        check_values(&frame)?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_every_type_is_read() {
        for text in [
            r#"{"type":"connect","client":"c1","active":true,"device":{"platform":"ios"}}"#,
            r#"{"type":"refresh","token":"x"}"#,
            r#"{"type":"subscribe","id":7,"rooms":[{"room":"project:p","since":3,"presence":true}]}"#,
            r#"{"type":"unsubscribe","rooms":["project:p"]}"#,
            r#"{"type":"write","id":"w","project":"p","ops":[{"op_id":"o","kind":"create"}]}"#,
            r#"{"type":"broadcast","room":"room:p:x","event":"e","data":[1]}"#,
            r#"{"type":"presence","room":"room:p:x","state":null}"#,
            r#"{"type":"ack","project":"p","seq":9}"#,
            r#"{"type":"push_device","provider":"expo","platform":"ios","token":"t"}"#,
            r#"{"type":"ping","later":"fields are ignored"}"#,
        ] {
            decode(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        }
    }

    #[test]
    fn an_unreadable_frame_names_its_request() {
        let (id, refusal) = decode(r#"{"id":3,"type":"dance"}"#).unwrap_err();
        assert_eq!((id, refusal.code), (Some(RequestId::Number(3)), ErrorCode::UnknownType));
        let (id, refusal) = decode(r#"{"id":"a","type":"ack","seq":"x"}"#).unwrap_err();
        assert_eq!(id, Some(RequestId::Text("a".into())));
        assert_eq!(refusal.code, ErrorCode::BadRequest);
        assert_eq!(decode("[]").unwrap_err().1.code, ErrorCode::BadRequest);
        assert_eq!(decode("").unwrap_err().1.code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_refusal_does_not_repeat_a_whole_frame() {
        let frame = format!(r#"{{"id":1,"type":"ack","seq":"{}"}}"#, "é".repeat(100_000));
        let (_, refusal) = decode(&frame).unwrap_err();
        assert!(refusal.message.len() < 1000, "{} bytes", refusal.message.len());
        assert!(refusal.message.ends_with('…'));
    }

    #[test]
    fn values_for_others_are_checked_before_they_get_there() {
        for text in [
            r#"{"id":1,"type":"connect","device":1e400}"#,
            r#"{"id":1,"type":"broadcast","room":"room:p:x","event":"e","data":"\ud800"}"#,
            r#"{"id":1,"type":"presence","room":"room:p:x","state":[18446744073709551616]}"#,
        ] {
            let (id, refusal) = decode(text).unwrap_err();
            assert_eq!((id, refusal.code), (Some(RequestId::Number(1)), ErrorCode::BadRequest));
        }
    }
}
