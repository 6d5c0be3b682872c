//! What waits for one socket: shared finished frames, bounded in bytes, written together.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Frames handed to the kernel in one call. Linux takes 1024; more than a few dozen gain nothing.
const FRAMES_PER_WRITE: usize = 64;
/// An empty outbox gives memory back if it has room for more frames than this.
const KEPT_CAPACITY: usize = 8;

/// Frames that wait for one socket.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Whether part of the first frame is written already.
    begun: bool,
}

/// How a flush ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits any more.
    Empty,
    /// The kernel's buffer is full; go on when the socket is writable.
    Blocked,
    /// The peer is gone.
    Broken,
}

impl Outbox {
    /// Adds a frame.
    pub fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all that waits, except what is left of a frame that was begun: the stream must stay
    /// readable for the close frame that follows.
    pub fn discard(&mut self) {
        self.frames.truncate(usize::from(self.begun));
        self.bytes = self.frames.iter().map(Bytes::len).sum();
    }

    /// Writes a frame when nothing waits before it; keeps what the kernel does not take.
    pub fn write_through(&mut self, socket: &TcpStream, frame: &Bytes) -> Flushed {
        match socket.try_write(frame) {
            Ok(written) if written == frame.len() => return Flushed::Empty,
            Ok(0) => return Flushed::Broken,
            Ok(written) => {
                self.push(frame.slice(written..));
                self.begun = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.push(frame.clone()),
            Err(_) => return Flushed::Broken,
        }
        Flushed::Blocked
    }

    /// Writes as much as the kernel takes, several frames a call.
    pub fn flush(&mut self, socket: &TcpStream) -> Flushed {
        while !self.frames.is_empty() {
            match self.write(socket) {
                Ok(0) => return Flushed::Broken,
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(_) => return Flushed::Broken,
            }
        }
        if self.frames.capacity() > KEPT_CAPACITY {
            self.frames = VecDeque::new();
        }
        Flushed::Empty
    }

    fn write(&self, socket: &TcpStream) -> io::Result<usize> {
        if self.frames.len() == 1 {
            return socket.try_write(&self.frames[0]);
        }
        let mut slices = [IoSlice::new(&[]); FRAMES_PER_WRITE];
        let mut count = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
            count += 1;
        }
        socket.try_write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.frames.front_mut() {
            if written < front.len() {
                front.advance(written);
                self.begun |= written > 0;
                return;
            }
            written -= front.len();
            self.begun = false;
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_through_a_full_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut outbox = Outbox::default();
        let mut sent = Vec::new();
        let mut blocked = 0;
        let mut number = 0_u32;
        while blocked < 3 {
            let frame: Bytes = number.to_be_bytes().repeat(1 + number as usize % 5000).into();
            number += 1;
            sent.extend_from_slice(&frame);
            if outbox.bytes() == 0 {
                outbox.write_through(&server, &frame);
            } else {
                outbox.push(frame);
            }
            if outbox.bytes() > 1 << 20 && outbox.flush(&server) == Flushed::Blocked {
                blocked += 1;
                let mut some = vec![0; 300_000];
                client.read_exact(&mut some).await.unwrap();
                assert!(sent.starts_with(&some), "the stream broke");
                sent.drain(..some.len());
            }
        }
        let rest = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            got
        });
        while outbox.flush(&server) == Flushed::Blocked {
            server.writable().await.unwrap();
        }
        assert_eq!(outbox.bytes(), 0);
        drop(server);
        assert!(rest.await.unwrap() == sent, "the rest of the stream differs");
    }
}
