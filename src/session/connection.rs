//! The task of one connection: reads its socket, and waits for it to become writable when it was full.
//!
//! It owns almost nothing: bytes are read into the shard's buffer and cut there; only a message cut by
//! the end of a read is kept.

use std::future::poll_fn;
use std::io::{self, Read};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::shard::Shard;
use super::table::{Closing, ConnRef};
use crate::auth::Claims;
use crate::protocol::error::CloseCode;
use crate::protocol::frame::{Decoder, FrameError, Incoming};

/// How long a closing connection is given to take what waits for it, the close frame last. A slow reader
/// needs time to come to it.
const WRITE_LINGER: Duration = Duration::from_secs(20);
/// How long the peer is then given to close its side.
const CLOSE_LINGER: Duration = Duration::from_secs(2);

/// What the handshake knew about a connection.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, taken out of the HTTP server.
    pub socket: TcpStream,
    /// The answer to the handshake, if it was not sent yet: it goes out with what the session says first.
    pub answer: Bytes,
    /// Bytes that arrived behind the handshake.
    pub early: Bytes,
    /// Where it comes from.
    pub ip: IpAddr,
    /// Whom the handshake's token names, if it carried one; or why the connection cannot be.
    pub verdict: Result<Option<Claims>, CloseCode>,
}

enum Event {
    Readable,
    Writable,
    Broken,
    Closing,
}

/// Begins to serve a connection, and returns the future that goes on until it is closed. That future
/// lives as long as the connection, so it holds next to nothing.
pub fn serve(shard: Rc<Shard>, accepted: Accepted) -> impl Future<Output = ()> {
    let Accepted { socket, answer, early, ip, verdict } = accepted;
    let socket = Rc::new(socket);
    let conn = shard.insert(socket.clone(), ip);
    shard.hub.metrics.connections.inc();
    shard.hub.metrics.connections_opened.inc();
    let mut decoder = Decoder::default();
    shard.turn(|| {
        if !answer.is_empty() {
            shard.send(conn.slot, &answer);
        }
        match verdict {
            Ok(Some(claims)) => shard.open_named(conn, claims),
            Ok(None) => {}
            Err(code) => shard.close(conn.slot, Closing::Code(code)),
        }
        if !early.is_empty() {
            read(&shard, conn, &mut decoder, &mut Vec::from(early));
        }
    });
    async move {
        loop {
            match next(&shard, conn, &socket).await {
                Event::Readable => receive(&shard, conn, &socket, &mut decoder),
                Event::Writable => write(&shard, conn),
                Event::Broken => shard.close(conn.slot, Closing::Broken),
                Event::Closing => break,
            }
        }
        Box::pin(finish(&shard, conn, &socket)).await;
        shard.remove(conn);
    }
}

/// Sees a closing connection off. A peer that does nothing for so long loses the close frame.
async fn finish(shard: &Shard, conn: ConnRef, socket: &TcpStream) {
    if let Ok(true) = timeout(WRITE_LINGER, write_rest(shard, conn, socket)).await {
        let _late = timeout(CLOSE_LINGER, hear_out(shard, socket)).await;
    }
}

async fn next(shard: &Shard, conn: ConnRef, socket: &TcpStream) -> Event {
    poll_fn(|cx| {
        let mut state = shard.state.borrow_mut();
        let Some(known) = state.conns.get_mut(conn.slot as usize) else {
            return Poll::Ready(Event::Closing);
        };
        if known.closing.is_some() {
            return Poll::Ready(Event::Closing);
        }
        if known.broken {
            return Poll::Ready(Event::Broken);
        }
        if known.blocked && socket.poll_write_ready(cx).is_ready() {
            return Poll::Ready(Event::Writable);
        }
        if socket.poll_read_ready(cx).is_ready() {
            return Poll::Ready(Event::Readable);
        }
        match &mut known.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    })
    .await
}

fn write(shard: &Shard, conn: ConnRef) {
    let mut state = shard.state.borrow_mut();
    if let Some(known) = state.conns.get_mut(conn.slot as usize) {
        known.blocked = false;
        known.flush();
    }
}

fn receive(shard: &Rc<Shard>, conn: ConnRef, socket: &TcpStream, decoder: &mut Decoder) {
    let mut buffer = shard.read_buffer.borrow_mut();
    match read_some(socket, &mut buffer) {
        Ok(0) => shard.close(conn.slot, Closing::Broken),
        // All answers to one read go out in one write.
        Ok(count) => shard.turn(|| read(shard, conn, decoder, &mut buffer[..count])),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => shard.close(conn.slot, Closing::Broken),
    }
}

/// Reads what is there. A read that does not fill the buffer has emptied the socket: the next edge is waited
/// for at once, without asking the kernel again only to hear that there is nothing.
pub(crate) fn read_some(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut part = None;
    let whole = socket.try_io(Interest::READABLE, || {
        let count = (&*SockRef::from(socket)).read(buffer)?;
        if count > 0 && count < buffer.len() {
            part = Some(count);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(count)
    });
    part.map_or(whole, Ok)
}

fn read(shard: &Rc<Shard>, conn: ConnRef, decoder: &mut Decoder, bytes: &mut [u8]) {
    let now = Instant::now();
    if let Some(known) = shard.state.borrow_mut().conns.get_mut(conn.slot as usize) {
        known.session.heard(now);
    }
    let limit = || shard.frame_bytes(conn);
    let handle = |message: Incoming<'_>| {
        if !shard.is_open(conn) {
            return Err(End::Closing); // decided by an earlier message of this read
        }
        match message {
            Incoming::Text(text) => shard.handle(conn, text, now),
            Incoming::Ping(payload) => shard.pinged(conn, payload, now),
            Incoming::Pong => {}
            Incoming::Close(_) => shard.close(conn.slot, Closing::Peer),
        }
        Ok(())
    };
    match decoder.feed(bytes, limit, handle) {
        Ok(()) | Err(End::Closing) => {}
        Err(End::Frame(error)) => {
            tracing::debug!(conn = conn.id, %error, "closing a connection that broke the framing");
            let code = match error {
                FrameError::TooLarge => CloseCode::FrameTooLarge,
                FrameError::Protocol(_) => CloseCode::BadRequest,
            };
            shard.close(conn.slot, Closing::Code(code));
        }
    }
}

/// Why reading ended.
enum End {
    Closing,
    Frame(FrameError),
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Writes what still waits; whether all of it was taken.
async fn write_rest(shard: &Shard, conn: ConnRef, socket: &TcpStream) -> bool {
    loop {
        {
            let mut state = shard.state.borrow_mut();
            let Some(known) = state.conns.get_mut(conn.slot as usize) else { return false };
            known.blocked = false;
            known.flush();
            if known.broken || known.closing == Some(Closing::Broken) {
                return false;
            }
            if known.pending() == 0 {
                return true;
            }
        }
        if socket.writable().await.is_err() {
            return false;
        }
    }
}

/// Waits for the peer to close its side: closing with unread bytes would make the kernel reset the
/// connection and take the close frame with it.
async fn hear_out(shard: &Shard, socket: &TcpStream) {
    if SockRef::from(socket).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    while socket.readable().await.is_ok() {
        let mut buffer = shard.read_buffer.borrow_mut();
        match socket.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
