//! A client made of bytes: for handshakes no library makes, frames no library sends, and sockets that
//! never read.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::DEADLINE;

/// The sample key of RFC 6455.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A TCP connection to a hub.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    /// What was read and not taken yet.
    buffer: Vec<u8>,
}

/// What a server's frame was.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Text(Value),
    Ping,
    Pong(Vec<u8>),
    Close(u16),
}

/// `host:port` of a `ws://` or `http://` URL.
pub(crate) fn authority(url: &str) -> String {
    url.split('/').nth(2).unwrap().to_owned()
}

/// A handshake request with these headers more.
pub(crate) fn handshake(path: &str, headers: &[(&str, &str)]) -> String {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request + "\r\n"
}

/// One masked frame.
pub(crate) fn frame(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 11, 13, 17];
    let mut frame = vec![opcode | if fin { 0x80 } else { 0 }];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A masked text frame.
pub(crate) fn text(json: &Value) -> Vec<u8> {
    frame(1, true, json.to_string().as_bytes())
}

impl Raw {
    /// Connects and sends nothing.
    pub(crate) async fn open(url: &str) -> Self {
        Self::of(TcpStream::connect(authority(url)).await.unwrap())
    }

    /// The same with a receive buffer of a few kilobytes.
    pub(crate) async fn open_narrow(url: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(32 << 10).unwrap();
        Self::of(socket.connect(authority(url).parse().unwrap()).await.unwrap())
    }

    fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Makes the handshake with a token in the header.
    pub(crate) async fn upgrade(&mut self, token: &str) {
        let bearer = format!("Bearer {token}");
        self.send(handshake("/v1/ws", &[("Authorization", &bearer)])).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// The head of an HTTP response.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await, "the connection ended in the head");
        }
    }

    /// The head and the rest, to the end of the connection.
    pub(crate) async fn read_out(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Reads some bytes; whether there were any before the end.
    async fn more(&mut self) -> bool {
        let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
        matches!(read.expect("bytes or the end arrive in time"), Ok(1..))
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn hear(&mut self) -> Option<Heard> {
        loop {
            if let Some((opcode, start, length)) = header(&self.buffer)
                && self.buffer.len() >= start + length
            {
                let payload = self.buffer[start..start + length].to_vec();
                self.buffer.drain(..start + length);
                return Some(match opcode {
                    1 => Heard::Text(serde_json::from_slice(&payload).unwrap()),
                    8 => Heard::Close(u16::from_be_bytes([payload[0], payload[1]])),
                    9 => Heard::Ping,
                    10 => Heard::Pong(payload),
                    other => panic!("opcode {other}"),
                });
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next text frame of a type; others are dropped.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Some(Heard::Text(frame)) if frame["type"] == kind => return frame,
                Some(Heard::Close(code)) => panic!("closed with {code} while waiting for {kind}"),
                Some(_) => {}
                None => panic!("ended while waiting for {kind}"),
            }
        }
    }

    /// Reads to the end: all text frames, and the close code if there was one.
    pub(crate) async fn end(&mut self) -> (Vec<Value>, Option<u16>) {
        let mut frames = Vec::new();
        loop {
            match self.hear().await {
                Some(Heard::Text(frame)) => frames.push(frame),
                Some(Heard::Close(code)) => return (frames, Some(code)),
                Some(_) => {}
                None => return (frames, None),
            }
        }
    }

    /// Resets the connection: the peer's next write fails.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn header(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let opcode = bytes.first()? & 0x0f;
    Some(match bytes.get(1)? {
        126 => (opcode, 4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap());
            (opcode, 10, usize::try_from(length).unwrap())
        }
        length => (opcode, 2, usize::from(*length)),
    })
}
