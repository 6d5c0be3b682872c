//! A typed client for tests: sends frames, finds answers, and waits with a deadline.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::DEADLINE;

/// One connection.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Frames that were read while something else was waited for.
    seen: VecDeque<Value>,
    requests: u64,
    /// The `connected` frame.
    pub(crate) hello: Value,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// With a close frame of this code.
    Closed(u16),
    /// Without one.
    Broken,
}

impl Client {
    /// Connects with a token in the `Authorization` header and waits for `connected`.
    pub(crate) async fn connect(url: &str, token: &str) -> Self {
        let mut client = Self::open(url, Some(token)).await.unwrap();
        client.hello = client.expect("connected").await;
        client
    }

    /// Opens a socket and waits for nothing.
    pub(crate) async fn open(url: &str, token: Option<&str>) -> Result<Self, Error> {
        let mut request = url.into_client_request()?;
        if let Some(token) = token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", bearer);
        }
        let (socket, _) = connect_async(request).await?;
        Ok(Self { socket, seen: VecDeque::new(), requests: 0, hello: Value::Null })
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends a text as it is.
    pub(crate) async fn send_text(&mut self, text: &str) {
        self.try_send(text).await.unwrap();
    }

    /// Sends a text as it is, if the connection still stands.
    pub(crate) async fn try_send(&mut self, text: &str) -> Result<(), End> {
        self.socket.send(Message::text(text)).await.map_err(|_| End::Broken)
    }

    /// Sends a text frame of any bytes, UTF-8 or not; the hub may refuse to read to its end.
    pub(crate) async fn send_bytes(&mut self, bytes: Vec<u8>) {
        let frame = Frame::message(bytes, OpCode::Data(Data::Text), true);
        let _refused = self.socket.send(Message::Frame(frame)).await;
    }

    /// Sends a request under a fresh id and returns its answer.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        self.requests += 1;
        let id = json!(self.requests);
        frame["id"] = id.clone();
        self.send(&frame).await;
        self.find(&format!("an answer to {frame}"), |answer| answer["id"] == id).await
    }

    /// Joins rooms and returns the answer for each.
    pub(crate) async fn subscribe(&mut self, rooms: Value) -> Vec<Value> {
        let answer = self.ask(json!({ "type": "subscribe", "rooms": rooms })).await;
        answer["rooms"].as_array().unwrap_or_else(|| panic!("refused: {answer}")).clone()
    }

    /// Writes operations and returns the verdicts.
    pub(crate) async fn write(&mut self, project: &str, ops: Value) -> Vec<Value> {
        let answer = self.ask(json!({ "type": "write", "project": project, "ops": ops })).await;
        answer["verdicts"].as_array().unwrap_or_else(|| panic!("refused: {answer}")).clone()
    }

    /// The next frame of a type; others stay for later.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        self.find(kind, |frame| frame["type"] == kind).await
    }

    /// The next frame that fits; others stay for later.
    pub(crate) async fn find(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&fits) {
            return self.seen.remove(at).unwrap();
        }
        let finding = async {
            loop {
                match self.read().await {
                    Ok(frame) if fits(&frame) => return frame,
                    Ok(frame) => self.seen.push_back(frame),
                    Err(end) => panic!("{end:?} while waiting for {what}; saw {:?}", self.seen),
                }
            }
        };
        match timeout(DEADLINE, finding).await {
            Ok(frame) => frame,
            Err(_) => panic!("in vain: {what}; saw {:?}", self.seen),
        }
    }

    /// The next frame, whatever it is, or the end.
    pub(crate) async fn read(&mut self) -> Result<Value, End> {
        self.read_text().await.map(|text| serde_json::from_str(&text).unwrap())
    }

    /// The next frame as it was sent, or the end.
    pub(crate) async fn read_text(&mut self) -> Result<String, End> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(End::Closed(frame.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(End::Broken),
            }
        }
    }

    /// Reads to the end of the connection: all frames not taken yet, and how it ended.
    pub(crate) async fn end(&mut self) -> (Vec<Value>, End) {
        let reading = async {
            loop {
                match self.read().await {
                    Ok(frame) => self.seen.push_back(frame),
                    Err(end) => return end,
                }
            }
        };
        let end = timeout(DEADLINE, reading).await.expect("the connection ends in time");
        (self.seen.drain(..).collect(), end)
    }

    /// Everything the hub sent before it answered a ping sent now.
    pub(crate) async fn settle(&mut self) -> Vec<Value> {
        let pong = self.ask(json!({ "type": "ping" })).await;
        assert_eq!(pong["type"], "pong");
        self.seen.drain(..).collect()
    }

    /// Closes in order.
    pub(crate) async fn close(mut self) {
        let _gone = self.socket.close(None).await;
    }
}

/// The positions of the changes among frames.
pub(crate) fn seqs(frames: &[Value]) -> Vec<u64> {
    let changes = frames.iter().filter(|frame| frame["type"] == "change");
    changes.map(|frame| frame["seq"].as_u64().unwrap()).collect()
}

/// An operation that creates a task.
pub(crate) fn create(op_id: &str, id: &str, fields: &Value) -> Value {
    json!({ "op_id": op_id, "kind": "create", "type": "task", "id": id, "fields": fields })
}

/// An operation that updates a task.
pub(crate) fn update(op_id: &str, id: &str, base: u64, fields: &Value) -> Value {
    json!({ "op_id": op_id, "kind": "update", "type": "task", "id": id, "base": base, "fields": fields })
}
