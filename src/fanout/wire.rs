//! What instances tell each other over the bus: one kind byte, then the body.
//!
//! Changes travel as the finished frames themselves, so a receiving instance neither encodes nor copies
//! them; it reads only the few fields it routes by. An unknown kind is skipped, so that old and new
//! instances can run side by side.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::feed::EncodedChange;
use crate::auth::{Disconnect, RevocationEntry};
use crate::id::{EntityKey, Epoch, ProjectId, Room, Seq};
use crate::presence::Delta;
use crate::protocol::frame;

const CHANGES: u8 = b'c';
const EVENT: u8 = b'e';
const JSON: u8 = b'j';

/// One message between instances.
#[derive(Debug)]
pub enum Wire {
    /// Changes of the topic's project, dense and in order, as one commit made them.
    Changes(Epoch, Vec<EncodedChange>),
    /// A broadcast's finished frame.
    Event(Room, Bytes),
    /// The rest, rare and small.
    Signal(Box<Signal>),
}

/// Rare messages between instances. Tagged from outside: a tag among the fields would make serde read
/// the fields into a buffer first, from which raw JSON, such as a presence state, cannot be taken.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Who came and went in a room.
    Presence {
        /// What happened.
        delta: Delta,
    },
    /// A frame payload for every connection of the topic's user whose token grants the project.
    User {
        /// What the frame is about.
        project: ProjectId,
        /// The JSON text of the frame.
        frame: String,
    },
    /// Tokens were revoked.
    Revoked {
        /// Which.
        entry: RevocationEntry,
    },
    /// A user's sessions are to end.
    Disconnect(Disconnect),
}

/// A message that is not of this form; dropped and counted.
#[derive(Debug, thiserror::Error)]
#[error("a bus message of kind {kind:?} is malformed")]
pub struct Malformed {
    kind: Option<char>,
}

/// Changes as one message.
#[must_use]
pub fn changes<'a>(
    epoch: Epoch,
    changes: impl Iterator<Item = &'a EncodedChange> + Clone,
) -> Bytes {
    let size = changes.clone().map(|change| change.frame.len() + 4).sum::<usize>();
    let mut out = BytesMut::with_capacity(17 + size);
    out.put_u8(CHANGES);
    out.put_slice(epoch.0.as_bytes());
    for change in changes {
        out.put_u32(u32::try_from(change.frame.len()).expect("frames are far below 4 GiB"));
        out.put_slice(&change.frame);
    }
    out.freeze()
}

/// A broadcast as one message.
#[must_use]
pub fn event(room: &Room, frame: &Bytes) -> Bytes {
    let room = room.to_string();
    let mut out = BytesMut::with_capacity(3 + room.len() + frame.len());
    out.put_u8(EVENT);
    out.put_u16(u16::try_from(room.len()).expect("room names are short"));
    out.put_slice(room.as_bytes());
    out.put_slice(frame);
    out.freeze()
}

/// A signal as one message.
#[must_use]
pub fn signal(signal: &Signal) -> Bytes {
    let mut out = vec![JSON];
    serde_json::to_writer(&mut out, signal).expect("signals have string keys");
    out.into()
}

/// Reads a message.
///
/// # Errors
/// [`Malformed`], also for a kind of a newer version.
pub fn decode(mut bytes: Bytes) -> Result<Wire, Malformed> {
    let kind = bytes.first().copied();
    let malformed = || Malformed { kind: kind.map(char::from) };
    let body = bytes.split_off(1.min(bytes.len()));
    match kind {
        Some(CHANGES) => decode_changes(body).ok_or_else(malformed),
        Some(EVENT) => decode_event(body).ok_or_else(malformed),
        Some(JSON) => serde_json::from_slice(&body).map(Wire::Signal).map_err(|_| malformed()),
        _ => Err(malformed()),
    }
}

fn take(bytes: &mut Bytes, n: usize) -> Option<Bytes> {
    (bytes.len() >= n).then(|| bytes.split_to(n))
}

fn decode_changes(mut body: Bytes) -> Option<Wire> {
    #[derive(Deserialize)]
    struct Routed {
        seq: Seq,
        entity: EntityKey,
    }
    let epoch = Epoch(Uuid::from_slice(&take(&mut body, 16)?).ok()?);
    let mut changes = Vec::new();
    while !body.is_empty() {
        let length = u32::from_be_bytes(take(&mut body, 4)?.as_ref().try_into().ok()?);
        let frame = take(&mut body, length as usize)?;
        let routed: Routed = serde_json::from_slice(&frame::payload(&frame)).ok()?;
        changes.push(EncodedChange { seq: routed.seq, entity: routed.entity, frame });
    }
    Some(Wire::Changes(epoch, changes))
}

fn decode_event(mut body: Bytes) -> Option<Wire> {
    let length = u16::from_be_bytes(take(&mut body, 2)?.as_ref().try_into().ok()?);
    let room = take(&mut body, usize::from(length))?;
    let room = std::str::from_utf8(&room).ok()?.parse().ok()?;
    Some(Wire::Event(room, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::server::{Member, RawState};

    fn change(seq: u64) -> EncodedChange {
        EncodedChange {
            seq: Seq(seq),
            entity: EntityKey {
                kind: "task".parse().unwrap(),
                id: "t:1".replace(':', "-").parse().unwrap(),
            },
            frame: frame::text(|p| {
                p.extend(
                    format!(
                        r#"{{"type":"change","seq":{seq},"entity":{{"type":"task","id":"t-1"}}}}"#
                    )
                    .bytes(),
                );
            }),
        }
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let epoch = Epoch(Uuid::new_v4());
        let sent = [change(7), change(8)];
        let Wire::Changes(got_epoch, got) = decode(changes(epoch, sent.iter())).unwrap() else {
            panic!()
        };
        assert_eq!(got_epoch, epoch);
        assert_eq!(got, sent);

        let room: Room = "room:p:x".parse().unwrap();
        let frame = frame::text(|p| p.extend(b"{}"));
        let Wire::Event(got_room, got_frame) = decode(event(&room, &frame)).unwrap() else {
            panic!()
        };
        assert_eq!((got_room, got_frame), (room.clone(), frame));

        let state = serde_json::value::RawValue::from_string("[ 1 ]".into()).unwrap();
        let member = Member { user: "bo".parse().unwrap(), state: Some(RawState(state.into())) };
        let joined = vec![member];
        let (left, updated) = (Vec::new(), Vec::new());
        let delta = Delta { room, joined, left, updated, users: 1, version: 7, prev: 5 };
        let sent = Signal::Presence { delta: delta.clone() };
        let Wire::Signal(got) = decode(signal(&sent)).unwrap() else { panic!() };
        assert!(matches!(*got, Signal::Presence { delta: got } if got == delta));
    }

    #[test]
    fn a_cut_or_unknown_message_is_an_error() {
        let whole = changes(Epoch(Uuid::new_v4()), [change(1)].iter());
        for length in (0..whole.len()).filter(|n| *n != 17) {
            assert!(decode(whole.slice(..length)).is_err(), "cut at {length}");
        }
        assert!(decode(Bytes::from_static(b"zfuture")).is_err());
    }
}
