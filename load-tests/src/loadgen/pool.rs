//! Many client connections on one thread: one epoll, one read buffer, no task and no timer per connection.
//!
//! Scenarios call [`Pool::turn`] in their own loops; nothing happens between the calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use load_tests::wire;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections per source address, well under the kernel's range of ephemeral ports.
const PER_SOURCE: usize = 10_000;

/// All connections of a scenario, by index.
#[derive(Debug)]
pub(crate) struct Pool {
    poll: Poll,
    events: Events,
    conns: Vec<Conn>,
    buffer: Vec<u8>,
}

/// Something a connection has to say.
#[derive(Debug)]
pub(crate) enum Happened<'a> {
    /// A text message arrived.
    Text(&'a [u8]),
    /// The connection is over.
    Ended(End),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// A close frame, with its code.
    Closed(u16),
    /// The server ended the stream without a close frame, or reset it.
    Cut(String),
    /// The upgrade was refused, with the status line.
    Refused(String),
}

impl End {
    /// A label for counting.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Closed(code) => code.to_string(),
            Self::Cut(how) => how.clone(),
            Self::Refused(status) => status.clone(),
        }
    }
}

#[derive(Debug)]
struct Conn {
    /// `None` once it ended.
    stream: Option<TcpStream>,
    upgraded: bool,
    stalled: bool,
    /// The bytes of a frame that was cut by the end of a read.
    cut: Vec<u8>,
    /// What the kernel has not taken yet.
    out: Vec<u8>,
}

impl Pool {
    /// An empty pool.
    pub(crate) fn new() -> Result<Self> {
        let (poll, events) = (Poll::new()?, Events::with_capacity(1024));
        Ok(Self { poll, events, conns: Vec::new(), buffer: vec![0; 256 << 10] })
    }

    /// How many connections were ever opened; the index of the next one.
    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// Connects number `id` (again, or as the next one) and sends `opening` as soon as it can.
    pub(crate) fn connect(
        &mut self,
        id: usize,
        address: SocketAddr,
        receive_buffer: Option<usize>,
        opening: Vec<u8>,
    ) -> Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Closing resets: no port waits for a minute after a storm.
        socket.set_linger(Some(Duration::ZERO))?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if address.ip().is_loopback() && address.is_ipv4() && id >= PER_SOURCE {
            let last = u8::try_from(1 + id / PER_SOURCE)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error.into());
            }
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(id), interest)?;
        let conn = Conn {
            stream: Some(stream),
            upgraded: false,
            stalled: false,
            cut: Vec::new(),
            out: opening,
        };
        if id == self.conns.len() {
            self.conns.push(conn);
        } else {
            self.conns[id] = conn;
        }
        Ok(())
    }

    /// Sends finished frames.
    pub(crate) fn send(&mut self, id: usize, frames: &[u8]) -> io::Result<()> {
        let conn = &mut self.conns[id];
        let idle = conn.out.is_empty();
        conn.out.extend_from_slice(frames);
        if idle { conn.flush() } else { Ok(()) }
    }

    /// Drops connection `id` without a word.
    pub(crate) fn cut(&mut self, id: usize) {
        self.conns[id].stream = None;
    }

    /// Stops or resumes reading from connection `id`.
    pub(crate) fn stall(&mut self, id: usize, stalled: bool) -> Result<()> {
        let conn = &mut self.conns[id];
        conn.stalled = stalled;
        if let (false, Some(stream)) = (stalled, &mut conn.stream) {
            // The edge came while nobody looked: registering again brings it back.
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().reregister(stream, Token(id), interest)?;
        }
        Ok(())
    }

    /// Waits up to `wait` for anything to happen and reports all of it.
    pub(crate) fn turn(
        &mut self,
        wait: Duration,
        mut on: impl FnMut(usize, Instant, Happened<'_>),
    ) -> Result<()> {
        let Self { poll, events, conns, buffer } = self;
        if let Err(error) = poll.poll(events, Some(wait)) {
            anyhow::ensure!(error.kind() == ErrorKind::Interrupted, error);
            return Ok(());
        }
        for event in &*events {
            let id = event.token().0;
            let conn = &mut conns[id];
            if conn.stream.is_none() || conn.stalled {
                continue;
            }
            let ended = event.is_read_closed() || event.is_error();
            let mut result = Ok(());
            if event.is_writable() && !conn.out.is_empty() {
                result = conn.flush().map_err(|error| End::Cut(error.kind().to_string()));
            }
            if result.is_ok() && (event.is_readable() || ended) {
                result = conn.read(buffer, ended, &mut |now, text| {
                    on(id, now, Happened::Text(text));
                });
            }
            if let Err(end) = result {
                conn.stream = None;
                on(id, Instant::now(), Happened::Ended(end));
            }
        }
        Ok(())
    }
}

impl Conn {
    fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Err(ErrorKind::NotConnected.into()) };
        while !self.out.is_empty() {
            match stream.write(&self.out) {
                Ok(n) if n == self.out.len() => self.out.clear(),
                Ok(n) => drop(self.out.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // A connect still under way.
                Err(error) if error.kind() == ErrorKind::NotConnected => break,
                Err(error) => return Err(error),
            }
        }
        if self.out.is_empty() && self.out.capacity() > 4096 {
            self.out = Vec::new();
        }
        Ok(())
    }

    fn read(
        &mut self,
        buffer: &mut [u8],
        ended: bool,
        on: &mut impl FnMut(Instant, &[u8]),
    ) -> Result<(), End> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            let n = match stream.read(buffer) {
                Ok(0) => return Err(End::Cut("eof".into())),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(End::Cut(error.kind().to_string())),
            };
            let now = Instant::now();
            if self.upgraded && self.cut.is_empty() {
                let used = self.frames(&buffer[..n], now, on)?;
                self.cut.extend_from_slice(&buffer[used..n]);
            } else {
                let mut joined = std::mem::take(&mut self.cut);
                joined.extend_from_slice(&buffer[..n]);
                let head = if self.upgraded { 0 } else { self.answer(&joined)? };
                let used = if self.upgraded { self.frames(&joined[head..], now, on)? } else { 0 };
                joined.drain(..head + used);
                if !joined.is_empty() {
                    self.cut = joined;
                }
            }
            // A short read emptied the socket; the next bytes come with the next event.
            if n < buffer.len() && !ended {
                return Ok(());
            }
        }
    }

    /// Reads the answer to the upgrade; returns its length, 0 while it is not whole.
    fn answer(&mut self, input: &[u8]) -> Result<usize, End> {
        let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Ok(0);
        };
        if !input.starts_with(b"HTTP/1.1 101 ") {
            let line = String::from_utf8_lossy(input).lines().next().unwrap_or_default().to_owned();
            return Err(End::Refused(line));
        }
        self.upgraded = true;
        Ok(end + 4)
    }

    fn frames(
        &mut self,
        input: &[u8],
        now: Instant,
        on: &mut impl FnMut(Instant, &[u8]),
    ) -> Result<usize, End> {
        let mut at = 0;
        while let Some(head) = wire::Head::parse(&input[at..]) {
            let payload = &input[at + head.start..at + head.end];
            match head.opcode {
                wire::TEXT => on(now, payload),
                wire::PING => {
                    self.out.extend_from_slice(&wire::masked(wire::PONG, payload));
                    self.flush().map_err(|error| End::Cut(error.kind().to_string()))?;
                }
                wire::CLOSE => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    return Err(End::Closed(code));
                }
                _ => {}
            }
            at += head.end;
        }
        Ok(at)
    }
}
