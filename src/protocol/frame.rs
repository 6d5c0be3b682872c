//! WebSocket framing (RFC 6455, section 5): finished messages out, messages in without copying.
//!
//! A server's frame is not masked, so one encoded message serves every recipient. A client's frame is
//! unmasked in the buffer it was read into; a connection owns bytes only for a frame that was cut by the
//! end of a read, or for a fragmented message. Header bytes are read and written by tungstenite.

use std::io::Cursor;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The longest header a server sends: two bytes and a 64-bit length.
const MAX_HEADER: usize = 10;
/// Control frames carry at most this many bytes (RFC 6455, section 5.5).
const MAX_CONTROL: u64 = 125;

/// A finished text message: `write` appends the payload, the header is put before it in place.
pub fn text(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut buffer = Vec::with_capacity(256);
    buffer.resize(MAX_HEADER, 0);
    write(&mut buffer);
    let length = (buffer.len() - MAX_HEADER) as u64;
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    let start = MAX_HEADER - header.len(length);
    put_header(&header, length, &mut buffer[start..MAX_HEADER]);
    Bytes::from(buffer).slice(start..)
}

/// The payload of a finished message made by [`text`].
#[must_use]
pub fn payload(message: &Bytes) -> Bytes {
    let start = match message.get(1).map_or(0, |b| b & 0x7f) {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    message.slice(start.min(message.len())..)
}

/// A ping without payload.
pub const PING: &[u8] = &[0x89, 0x00];

/// A pong that echoes `payload`.
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    control(Control::Pong, payload)
}

/// A close frame with its code and reason.
#[must_use]
pub fn close(code: u16, reason: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.len().min(123)]);
    control(Control::Close, &payload)
}

fn control(opcode: Control, payload: &[u8]) -> Bytes {
    let header = FrameHeader { opcode: OpCode::Control(opcode), ..FrameHeader::default() };
    let length = payload.len() as u64;
    let mut frame = vec![0; header.len(length)];
    put_header(&header, length, &mut frame);
    frame.extend_from_slice(payload);
    frame.into()
}

fn put_header(header: &FrameHeader, length: u64, mut out: &mut [u8]) {
    header.format(length, &mut out).expect("the slice is as long as the header");
}

/// One message from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A ping; answer with [`pong`].
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// The peer closes; its code, if it gave one.
    Close(Option<u16>),
}

/// Why a byte stream is not one this hub reads. The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is larger than the limit.
    #[error("a message is larger than the limit")]
    TooLarge,
    /// The peer broke RFC 6455.
    #[error("{0}")]
    Protocol(&'static str),
}

/// Cuts a client's byte stream into messages. Empty and without heap memory between whole messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The bytes of a frame that was cut by the end of a read.
    cut: Vec<u8>,
    /// The payload so far of a fragmented message; `None` outside of one.
    fragments: Option<Vec<u8>>,
}

impl Decoder {
    /// Reads `input`, calling `on` for each whole message in order. `input` is unmasked in place. How many
    /// bytes a message may have is asked for each: the one before it may have changed that.
    ///
    /// # Errors
    /// [`FrameError`] if the stream is broken or a message exceeds `limit` bytes; `on`'s own errors end
    /// the reading too.
    pub fn feed<E: From<FrameError>>(
        &mut self,
        input: &mut [u8],
        limit: impl Fn() -> usize,
        mut on: impl FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.cut.is_empty() {
            let read = self.frames(input, &limit, &mut on)?;
            self.cut.extend_from_slice(&input[read..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.cut);
        joined.extend_from_slice(input);
        let read = self.frames(&mut joined, &limit, &mut on)?;
        if read < joined.len() {
            joined.drain(..read);
            self.cut = joined;
        }
        Ok(())
    }

    /// Bytes of memory held for an unfinished message.
    #[must_use]
    pub fn held(&self) -> usize {
        self.cut.len() + self.fragments.as_ref().map_or(0, Vec::len)
    }

    fn frames<E: From<FrameError>>(
        &mut self,
        input: &mut [u8],
        limit: &impl Fn() -> usize,
        on: &mut impl FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut at = 0;
        loop {
            let mut cursor = Cursor::new(&input[at..]);
            let header = FrameHeader::parse(&mut cursor)
                .map_err(|_| FrameError::Protocol("reserved opcode or malformed header"))?;
            let Some((header, length)) = header else {
                return Ok(at);
            };
            let start = at + usize::try_from(cursor.position()).expect("a header is short");
            let held = self.fragments.as_ref().map_or(0, Vec::len) as u64;
            self.check(&header, length, (limit() as u64).saturating_sub(held))?;
            let length = usize::try_from(length).map_err(|_| FrameError::TooLarge)?;
            let Some(payload) = input.get_mut(start..start + length) else {
                return Ok(at);
            };
            unmask(payload, header.mask.unwrap_or_default());
            self.message(&header, payload, on)?;
            at = start + length;
        }
    }

    fn check(&self, header: &FrameHeader, length: u64, room: u64) -> Result<(), FrameError> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(FrameError::Protocol("a reserved bit is set and no extension was agreed"));
        }
        if header.mask.is_none() {
            return Err(FrameError::Protocol("a client's frames must be masked"));
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final || length > MAX_CONTROL => {
                Err(FrameError::Protocol("a control frame is fragmented or too long"))
            }
            OpCode::Control(_) => Ok(()),
            OpCode::Data(Data::Binary) => {
                Err(FrameError::Protocol("this protocol has text frames only"))
            }
            OpCode::Data(Data::Continue) if self.fragments.is_none() => {
                Err(FrameError::Protocol("a continuation without a beginning"))
            }
            OpCode::Data(Data::Text) if self.fragments.is_some() => {
                Err(FrameError::Protocol("a new message inside a fragmented one"))
            }
            OpCode::Data(_) if length > room => Err(FrameError::TooLarge),
            OpCode::Data(_) => Ok(()),
        }
    }

    fn message<E: From<FrameError>>(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        on: &mut impl FnMut(Incoming<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        const NOT_UTF8: FrameError = FrameError::Protocol("a text frame is not UTF-8");
        match header.opcode {
            OpCode::Control(Control::Ping) => on(Incoming::Ping(payload)),
            OpCode::Control(Control::Close) => on(Incoming::Close(
                payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)),
            )),
            OpCode::Control(_) => on(Incoming::Pong),
            OpCode::Data(_) if header.is_final && self.fragments.is_none() => {
                on(Incoming::Text(std::str::from_utf8(payload).map_err(|_| NOT_UTF8)?))
            }
            OpCode::Data(_) => {
                let mut message = self.fragments.take().unwrap_or_default();
                message.extend_from_slice(payload);
                if !header.is_final {
                    self.fragments = Some(message);
                    return Ok(());
                }
                on(Incoming::Text(std::str::from_utf8(&message).map_err(|_| NOT_UTF8)?))
            }
        }
    }
}

/// RFC 6455, section 5.3, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let half = u32::from_ne_bytes(mask);
    let wide = u64::from(half) << 32 | u64::from(half);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes((&*chunk).try_into().expect("a chunk has eight bytes"));
        chunk.copy_from_slice(&(word ^ wide).to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![opcode | if fin { 0x80 } else { 0 }];
        if payload.len() < 126 {
            frame.push(0x80 | u8::try_from(payload.len()).unwrap());
        } else {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }

    fn read(decoder: &mut Decoder, bytes: &[u8], limit: usize) -> Result<Vec<String>, FrameError> {
        let mut seen = Vec::new();
        decoder.feed(
            &mut bytes.to_vec(),
            || limit,
            |message| {
                seen.push(format!("{message:?}"));
                Ok::<(), FrameError>(())
            },
        )?;
        Ok(seen)
    }

    #[test]
    fn any_cut_of_the_stream_reads_the_same() {
        let long = "é".repeat(300);
        let mut stream = masked(1, true, b"one");
        stream.extend(masked(9, true, b"hi"));
        stream.extend(masked(1, false, "t\u{e9}".as_bytes()));
        stream.extend(masked(10, true, b""));
        stream.extend(masked(0, true, b"wo"));
        stream.extend(masked(1, true, long.as_bytes()));
        stream.extend(masked(8, true, &1000u16.to_be_bytes()));
        let whole = read(&mut Decoder::default(), &stream, 1024).unwrap();
        assert_eq!(whole.len(), 6);
        for cut in 0..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = read(&mut decoder, &stream[..cut], 1024).unwrap();
            seen.extend(read(&mut decoder, &stream[cut..], 1024).unwrap());
            assert_eq!(seen, whole, "cut at {cut}");
            assert_eq!(decoder.held(), 0);
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_held() {
        let frame = masked(1, true, &[b'x'; 200]);
        assert_eq!(read(&mut Decoder::default(), &frame[..8], 199), Err(FrameError::TooLarge));
        let mut decoder = Decoder::default();
        read(&mut decoder, &masked(1, false, &[b'x'; 150]), 199).unwrap();
        assert_eq!(
            read(&mut decoder, &masked(0, true, &[b'x'; 50]), 199),
            Err(FrameError::TooLarge)
        );
    }

    #[test]
    fn what_rfc_6455_forbids_is_refused() {
        let mut unmasked = text(|p| p.extend(b"{}")).to_vec();
        for bad in [
            std::mem::take(&mut unmasked),
            masked(2, true, b"binary"),
            masked(0, true, b"stray continuation"),
            masked(9, false, b"fragmented ping"),
            masked(9, true, &[0; 126]),
            masked(3, true, b"reserved opcode"),
            masked(1, true, &[0xff]),
            vec![0xc1, 0x80, 0, 0, 0, 0],
        ] {
            let result = read(&mut Decoder::default(), &bad, 1024);
            assert!(matches!(result, Err(FrameError::Protocol(_))), "{bad:?}: {result:?}");
        }
    }

    #[test]
    fn messages_out_carry_the_shortest_header() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let message = text(|payload| payload.resize(MAX_HEADER + length, b'x'));
            assert_eq!(payload(&message).len(), length);
            let header = message.len() - length;
            assert_eq!(
                header,
                if length < 126 {
                    2
                } else if length < 65_536 {
                    4
                } else {
                    10
                }
            );
        }
        assert_eq!(&close(4001, "slow_consumer")[..4], &[0x88, 15, 0x0f, 0xa1]);
        assert_eq!(&pong(b"x")[..], &[0x8a, 1, b'x']);
    }
}
