//! One thread, one epoll, one `write` per delivery.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::Result;
use load_tests::{scan, wire};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::log::{EPOCH, Log};

const LISTENER: Token = Token(usize::MAX);
const BACKLOG: i32 = 4096;
/// Bytes that may wait for one connection; above it the connection is dropped.
const OUTBOX: usize = 1 << 20;

/// The server and all it knows.
#[derive(Debug)]
pub(crate) struct Server {
    poll: Poll,
    listener: TcpListener,
    conns: Slab<Conn>,
    rooms: HashMap<String, Vec<usize>>,
    log: Log,
    coalesce: bool,
    /// Connections with something to write at the end of this loop turn.
    dirty: Vec<usize>,
    /// Connections to drop at the end of this loop turn.
    dead: Vec<usize>,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    upgraded: bool,
    dirty: bool,
    /// The bytes of a frame that was cut by the end of a read.
    cut: Vec<u8>,
    /// What the kernel has not taken yet.
    out: Vec<u8>,
}

impl Conn {
    /// Hands `frame` to the kernel at once, or keeps what it does not take.
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut taken = 0;
        if self.out.is_empty() {
            match self.stream.write(frame) {
                Ok(n) if n == frame.len() => return Ok(()),
                Ok(n) => taken = n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.out.extend_from_slice(&frame[taken..]);
        if self.out.len() > OUTBOX { Err(ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.dirty = false;
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(n) if n == self.out.len() => self.out.clear(),
                Ok(n) => drop(self.out.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.out.len() > OUTBOX { Err(ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }
}

impl Server {
    /// Listens at `address`.
    pub(crate) fn new(address: SocketAddr, coalesce: bool) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            conns: Slab::new(),
            rooms: HashMap::new(),
            log: Log::default(),
            coalesce,
            dirty: Vec::new(),
            dead: Vec::new(),
        })
    }

    /// Serves until the process is killed.
    pub(crate) fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Err(error) = self.poll.poll(&mut events, None) {
                anyhow::ensure!(error.kind() == ErrorKind::Interrupted, error);
                continue;
            }
            for event in &events {
                let id = event.token();
                if id == LISTENER {
                    self.accept()?;
                    continue;
                }
                let Some(conn) = self.conns.get_mut(id.0) else { continue };
                let flushed = !event.is_writable() || conn.out.is_empty() || conn.flush().is_ok();
                let ended = event.is_read_closed() || event.is_error();
                if !flushed || self.read(id.0, &mut buffer, ended).is_err() {
                    self.dead.push(id.0);
                }
            }
            self.end_turn();
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let entry = self.conns.vacant_entry();
            self.poll.registry().register(
                &mut stream,
                Token(entry.key()),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            let (cut, out) = (Vec::new(), Vec::new());
            entry.insert(Conn { stream, upgraded: false, dirty: false, cut, out });
        }
    }

    /// Writes what this turn left pending and drops who failed.
    fn end_turn(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            if self.conns.get_mut(id).is_some_and(|conn| conn.flush().is_err()) {
                self.dead.push(id);
            }
        }
        for id in std::mem::take(&mut self.dead) {
            if self.conns.try_remove(id).is_some() {
                for members in self.rooms.values_mut() {
                    if let Some(at) = members.iter().position(|member| *member == id) {
                        members.swap_remove(at);
                    }
                }
            }
        }
    }

    fn read(&mut self, id: usize, buffer: &mut [u8], ended: bool) -> io::Result<()> {
        loop {
            let conn = &mut self.conns[id];
            let n = match conn.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if conn.upgraded && conn.cut.is_empty() {
                let used = self.frames(id, &mut buffer[..n])?;
                self.conns[id].cut.extend_from_slice(&buffer[used..n]);
            } else {
                let mut joined = std::mem::take(&mut conn.cut);
                joined.extend_from_slice(&buffer[..n]);
                let used = self.bytes(id, &mut joined)?;
                joined.drain(..used);
                if !joined.is_empty() {
                    self.conns[id].cut = joined;
                }
            }
            let conn = &mut self.conns[id];
            if !conn.out.is_empty() && !conn.dirty {
                conn.flush()?;
            }
            // A short read emptied the socket; the next bytes come with the next event.
            if n < buffer.len() && !ended {
                return Ok(());
            }
        }
    }

    /// Reads the upgrade request first, then frames.
    fn bytes(&mut self, id: usize, input: &mut [u8]) -> io::Result<usize> {
        let mut head = 0;
        if !self.conns[id].upgraded {
            let Some(end) = input.windows(4).position(|w| w == b"\r\n\r\n") else {
                return Ok(0);
            };
            head = end + 4;
            let answer = upgrade(&input[..head]).ok_or(ErrorKind::InvalidData)?;
            self.conns[id].out.extend_from_slice(&answer);
            self.conns[id].upgraded = true;
        }
        Ok(head + self.frames(id, &mut input[head..])?)
    }

    fn frames(&mut self, id: usize, input: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        while let Some(head) = wire::Head::parse(&input[at..]) {
            let payload = &mut input[at + head.start..at + head.end];
            wire::unmask(payload, head.mask.unwrap_or_default());
            match head.opcode {
                wire::TEXT => self.text(id, payload)?,
                wire::PING => {
                    self.conns[id].out.extend_from_slice(&wire::frame(wire::PONG, payload));
                }
                wire::CLOSE => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
            at += head.end;
        }
        Ok(at)
    }

    fn text(&mut self, id: usize, text: &[u8]) -> io::Result<()> {
        const BROADCAST: &[u8] = br#"{"type":"broadcast","#;
        if let Some(rest) = text.strip_prefix(BROADCAST) {
            let event = [br#"{"type":"event","#, rest].concat();
            let room = room_of(text).ok_or(ErrorKind::InvalidData)?;
            self.deliver(room, Some(id), &wire::frame(wire::TEXT, &event));
        } else if text.starts_with(br#"{"type":"ping""#) {
            self.conns[id].out.extend_from_slice(&wire::frame(wire::TEXT, &pong(text)));
        } else if text.starts_with(br#"{"type":"subscribe""#) {
            let text = std::str::from_utf8(text).map_err(|_| ErrorKind::InvalidData)?;
            self.subscribe(id, text);
        } else if text.starts_with(br#"{"type":"unsubscribe""#) {
            for members in self.rooms.values_mut() {
                members.retain(|member| *member != id);
            }
        } else if text.starts_with(br#"{"type":"write""#) {
            let written = self.log.write(text).ok_or(ErrorKind::InvalidData)?;
            self.conns[id].out.extend_from_slice(&written.reply);
            for change in written.changes {
                self.deliver(&written.room, None, &change);
            }
        }
        Ok(())
    }

    /// Gives `frame` to everyone in `room` but its sender.
    fn deliver(&mut self, room: &str, sender: Option<usize>, frame: &[u8]) {
        let Self { conns, rooms, coalesce, dirty, dead, .. } = self;
        for &member in rooms.get(room).map(Vec::as_slice).unwrap_or_default() {
            if Some(member) == sender {
                continue;
            }
            let conn = &mut conns[member];
            if *coalesce {
                conn.out.extend_from_slice(frame);
                if !conn.dirty {
                    conn.dirty = true;
                    dirty.push(member);
                }
            } else if conn.write(frame).is_err() {
                dead.push(member);
            }
        }
    }

    fn subscribe(&mut self, id: usize, text: &str) {
        let mut answers = Vec::new();
        let mut missed: Vec<u8> = Vec::new();
        for (room, rest) in scan::strings(text, "\"room\":\"") {
            let members = self.rooms.entry(room.to_owned()).or_default();
            members.push(id);
            let Some(project) = room.strip_prefix("project:") else {
                answers.push(format!(r#"{{"room":"{room}","recovered":false}}"#));
                continue;
            };
            let head = self.log.head(project);
            let own = rest.split('}').next().unwrap_or_default();
            let since = scan::Finder::new("\"since\":").number(own.as_bytes());
            if let Some(since) = since.and_then(|since| usize::try_from(since).ok()) {
                missed.extend(self.log.after(project, since).iter().flat_map(|f| f.iter()));
            }
            let recovered = since.is_some();
            answers.push(format!(
                r#"{{"room":"{room}","seq":{head},"epoch":"{EPOCH}","recovered":{recovered}}}"#
            ));
        }
        let reply = format!(r#"{{"type":"subscribed","id":1,"rooms":[{}]}}"#, answers.join(","));
        let out = &mut self.conns[id].out;
        out.extend_from_slice(&wire::frame(wire::TEXT, reply.as_bytes()));
        out.extend(missed);
    }
}

fn upgrade(request: &[u8]) -> Option<Vec<u8>> {
    let key = std::str::from_utf8(request).ok()?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
    })?;
    let accept = derive_accept_key(key.as_bytes());
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(&wire::frame(wire::TEXT, br#"{"type":"connected"}"#));
    Some(answer)
}

fn room_of(text: &[u8]) -> Option<&str> {
    const KEY: &[u8] = b"\"room\":\"";
    let start = text.windows(KEY.len()).position(|w| w == KEY)? + KEY.len();
    let length = text[start..].iter().position(|b| *b == b'"')?;
    std::str::from_utf8(&text[start..start + length]).ok()
}

fn pong(ping: &[u8]) -> Vec<u8> {
    [br#"{"type":"pong""#, &ping[br#"{"type":"ping""#.len()..]].concat()
}
