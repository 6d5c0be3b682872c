//! WebSocket framing (RFC 6455, section 5): just what the two ends of a benchmark need.

/// A text frame.
pub const TEXT: u8 = 1;
/// A close frame.
pub const CLOSE: u8 = 8;
/// A ping.
pub const PING: u8 = 9;
/// A pong.
pub const PONG: u8 = 10;

/// The key of every masked frame. Fixed: there is no proxy between the two ends to protect.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a server sends it.
#[must_use]
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(opcode, 0, payload.len());
    out.extend_from_slice(payload);
    out
}

/// A frame as a client sends it.
#[must_use]
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(opcode, 0x80, payload.len());
    out.extend_from_slice(&KEY);
    let start = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[start..], KEY);
    out
}

fn header(opcode: u8, mask_bit: u8, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 + length);
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => out.push(mask_bit | short),
        (_, Ok(medium)) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out
}

/// Where a frame's payload lies in the bytes it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What kind of frame.
    pub opcode: u8,
    /// The key to unmask with; a client's frames have one.
    pub mask: Option<[u8; 4]>,
    /// Where the payload starts.
    pub start: usize,
    /// Where it ends, and the next frame begins.
    pub end: usize,
}

impl Head {
    /// The frame at the start of `bytes`, or `None` while some of it is missing.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (length, mut start) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            short => (u64::from(short), 2),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(*bytes.get(start..)?.first_chunk()?);
            start += 4;
        }
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (bytes.len() >= end).then_some(Self { opcode: first & 0x0f, mask, start, end })
    }
}

/// Masks or unmasks in place.
pub fn unmask(payload: &mut [u8], key: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_at_every_header_size_and_not_before_it_is_whole() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let sent = masked(TEXT, &payload);
            for cut in (0..sent.len()).rev().take(20) {
                assert_eq!(Head::parse(&sent[..cut]), None);
            }
            let head = Head::parse(&sent).expect("the frame is whole");
            let mut read = sent[head.start..head.end].to_vec();
            unmask(&mut read, head.mask.expect("a client masks"));
            assert_eq!((head.opcode, read), (TEXT, payload.clone()));

            let head = Head::parse(&frame(PING, &payload)).expect("the frame is whole");
            assert_eq!((head.opcode, head.mask, head.end - head.start), (PING, None, length));
        }
    }
}
