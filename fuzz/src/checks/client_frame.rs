//! Reading a client's frame: no text panics, a refusal stays small however large the frame, and what
//! was accepted means the same when it is written out again.

use serde_json::value::RawValue;
use syncline::protocol::client::{self, ClientFrame, Request, RequestId, Write};

/// Refusals go back to the sender: they must not repeat a whole frame.
const REFUSAL_BYTES: usize = 1024;

/// Input: the text of a frame; what is not UTF-8 never comes this far.
pub(super) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let request = match client::decode(text) {
        Ok(request) => request,
        Err((_, refusal)) => {
            let size = refusal.message.len();
            assert!(size <= REFUSAL_BYTES, "a refusal of {size} bytes");
            return;
        }
    };
    if let ClientFrame::Write(write) = &request.frame {
        write.ops.iter().for_each(|op| check_op(op));
    }
    let written = write_out(&request);
    let again = client::decode(&written)
        .unwrap_or_else(|refusal| panic!("{written} is refused: {refusal:?}"));
    assert_eq!(write_out(&again), written);
}

fn check_op(raw: &RawValue) {
    match Write::op(raw) {
        Err(refusal) => assert!(refusal.message.len() <= REFUSAL_BYTES),
        Ok(op) => {
            let text = serde_json::to_string(&op).unwrap();
            let again = Write::op(&RawValue::from_string(text).unwrap());
            assert_eq!(again.as_ref(), Ok(&op), "an operation changes when it is stored");
        }
    }
}

/// The request as a frame: known fields only, in one order, raw values as they came.
fn write_out(request: &Request) -> String {
    let mut frame = Object::default();
    if let Some(id) = &request.id {
        match id {
            RequestId::Number(n) => frame.put("id", &n),
            RequestId::Text(text) => frame.put("id", &text),
        }
    }
    let kind = match &request.frame {
        ClientFrame::Connect(f) => {
            frame.some("token", f.token.as_ref());
            frame.some("client", f.client.as_ref());
            frame.some("device", f.device.as_ref());
            frame.some("active", f.active.as_ref());
            "connect"
        }
        ClientFrame::PushDevice(f) => {
            frame.put("provider", &f.provider);
            frame.some("token", f.token.as_ref());
            frame.put("platform", &f.platform);
            frame.some("locale", f.locale.as_ref());
            frame.some("tz", f.tz.as_ref());
            frame.some("app_version", f.app_version.as_ref());
            frame.some("model", f.model.as_ref());
            "push_device"
        }
        ClientFrame::Refresh(f) => {
            frame.put("token", &f.token);
            "refresh"
        }
        ClientFrame::Subscribe(f) => {
            let rooms = f.rooms.iter().map(|room| {
                let mut object = Object::default();
                object.put("room", &room.room);
                object.some("since", room.since.as_ref());
                object.some("epoch", room.epoch.as_ref());
                object.put("presence", &room.presence);
                object.finish()
            });
            frame.put("rooms", &rooms.collect::<Vec<_>>());
            "subscribe"
        }
        ClientFrame::Unsubscribe(f) => {
            frame.put("rooms", &f.rooms);
            "unsubscribe"
        }
        ClientFrame::Write(f) => {
            frame.some("project", f.project.as_ref());
            frame.some("client", f.client.as_ref());
            frame.put("ops", &f.ops);
            frame.some("sent_at", f.sent_at.as_ref());
            "write"
        }
        ClientFrame::Broadcast(f) => {
            frame.put("room", &f.room);
            frame.put("event", &f.event);
            frame.some("data", f.data.as_ref());
            "broadcast"
        }
        ClientFrame::Presence(f) => {
            frame.put("room", &f.room);
            frame.put("state", &f.state);
            "presence"
        }
        ClientFrame::Ack(f) => {
            frame.some("project", f.project.as_ref());
            frame.some("seq", f.seq.as_ref());
            frame.some("active", f.active.as_ref());
            "ack"
        }
        ClientFrame::Ping => "ping",
    };
    frame.put("type", &kind);
    frame.finish().get().to_owned()
}

/// A JSON object in the making; raw values enter it untouched.
#[derive(Default)]
struct Object(Vec<String>);

impl Object {
    fn put(&mut self, name: &str, value: &impl serde::Serialize) {
        self.0.push(format!("\"{name}\":{}", serde_json::to_string(value).unwrap()));
    }

    fn some(&mut self, name: &str, value: Option<&impl serde::Serialize>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    fn finish(self) -> Box<RawValue> {
        RawValue::from_string(format!("{{{}}}", self.0.join(","))).unwrap()
    }
}
