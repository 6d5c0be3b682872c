//! The first request of a connection, read before there is an HTTP server for it.
//!
//! Nearly always it is a WebSocket handshake. Then no HTTP server with its buffers is needed, and the answer
//! goes out in one write with what the session says first. Everything else, a handshake to be refused too,
//! is left to the HTTP server, from its first byte on.

use std::io::{Cursor, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use httparse::{EMPTY_HEADER, Request, Status};
use tokio::io::{AsyncReadExt, Chain, Join};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::patience::Patient;
use super::server::HEAD_BYTES;
use super::upgrade::{self, Handshake, Head};
use crate::hub::Hub;
use crate::session::connection::read_some;
use crate::session::shard::Shard;

/// Headers a handshake may have; one with more is left to the HTTP server.
const HEADERS: usize = 64;

/// What a connection begins with.
pub(super) enum First {
    /// A handshake that is one, and the bytes behind it.
    Handshake(Handshake, Bytes),
    /// Something else, as far as it was read.
    Other(Bytes),
    /// Nothing: the peer is gone.
    Gone,
}

/// Reads the head of the first request. Cancelled, it loses what it read.
pub(super) async fn read(shard: &Shard, socket: &TcpStream) -> First {
    let mut kept = Vec::new();
    loop {
        if socket.readable().await.is_err() {
            return First::Gone;
        }
        let mut buffer = shard.read_buffer.borrow_mut();
        let count = match read_some(socket, &mut buffer) {
            Ok(count) if count > 0 => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            _ => return First::Gone,
        };
        let bytes = if kept.is_empty() {
            &buffer[..count] // all of it in one read, as a rule
        } else {
            kept.extend_from_slice(&buffer[..count]);
            &kept[..]
        };
        match parse(bytes, &shard.hub) {
            Parsed::Handshake(handshake, length) => {
                return First::Handshake(handshake, Bytes::copy_from_slice(&bytes[length..]));
            }
            Parsed::Partial if bytes.len() < HEAD_BYTES => {
                if kept.is_empty() {
                    kept = bytes.to_vec();
                }
            }
            Parsed::Partial | Parsed::Other => return First::Other(Bytes::copy_from_slice(bytes)),
        }
    }
}

enum Parsed {
    /// A good handshake, and where its head ends.
    Handshake(Handshake, usize),
    Partial,
    Other,
}

fn parse(bytes: &[u8], hub: &Hub) -> Parsed {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Parsed::Other;
    };
    let head = Head { method, target, headers: request.headers };
    if !head.is_for_a_socket() || head.has_body() {
        return Parsed::Other;
    }
    match upgrade::read(&head, hub) {
        Ok(handshake) => Parsed::Handshake(handshake, length),
        Err(_) => Parsed::Other,
    }
}

/// A socket whose first bytes were read already, to be read again; a peer must go on reading.
pub(super) type Rewound = Patient<Join<Chain<Cursor<Bytes>, OwnedReadHalf>, OwnedWriteHalf>>;

pub(super) fn rewind(socket: TcpStream, read: Bytes, patience: Duration) -> Rewound {
    let (reader, writer) = socket.into_split();
    Patient::new(tokio::io::join(Cursor::new(read).chain(reader), writer), patience)
}

/// The socket again, and what of its first bytes was not read again.
pub(super) fn unwind(rewound: Rewound) -> Option<(TcpStream, Bytes)> {
    let (reader, writer) = rewound.into_inner().into_inner();
    let (first, reader) = reader.into_inner();
    let at = usize::try_from(first.position()).ok()?;
    let rest = first.into_inner();
    Some((reader.reunite(writer).ok()?, rest.slice(at.min(rest.len())..)))
}
