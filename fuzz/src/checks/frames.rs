//! WebSocket framing: however a byte stream is cut, the same messages come out of it, then the same
//! error; and an unfinished message never holds more memory than the limit allows.

use arbitrary::Unstructured;
use bytes::Bytes;
use syncline::protocol::frame::{self, Decoder, FrameError};

use super::number;

/// What may be held beyond the limit: a header, and a control frame inside a fragmented message.
const SLACK: usize = 14 + 14 + 125;

/// Input: a limit, a stream (made of frames, then as it is), and where to cut it.
pub(super) fn check(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let limit = *input.choose(&[64, 0, 1, 125, 126, 300, 70_000]).unwrap_or(&64);
    let cuts: [u8; 4] = input.arbitrary().unwrap_or_default();
    let mut stream = Vec::new();
    for _ in 0..number(&mut input, 0..=12) {
        put_frame(&mut input, &mut stream);
    }
    stream.extend_from_slice(input.take_rest());

    let (whole, result) = read(&stream, limit, [stream.len()].into_iter().cycle());
    // Every byte alone, but a long stream in at most so many pieces.
    let even = read(&stream, limit, [stream.len() / 2048 + 1].into_iter().cycle());
    assert_eq!((&whole, result), (&even.0, even.1), "cut evenly");
    let cuts = cuts.map(|n| (usize::from(n) + 1) * (stream.len() / 4096 + 1));
    let some = read(&stream, limit, cuts.into_iter().cycle());
    assert_eq!((&whole, result), (&some.0, some.1), "cut after {cuts:?}");
    for message in &whole {
        let sent = frame::text(|payload| payload.extend(message.bytes()));
        assert_eq!(frame::payload(&sent), message.as_bytes());
    }
    let _any_bytes_will_do = frame::payload(&Bytes::copy_from_slice(data));
}

/// A frame that is mostly right: any opcode, length form, mask and payload.
fn put_frame(input: &mut Unstructured<'_>, stream: &mut Vec<u8>) {
    let first: u8 = *input.choose(&[0x81, 0x01, 0x00, 0x80, 0x89, 0x8a, 0x88]).unwrap_or(&0x81);
    let odd: u8 = input.arbitrary().unwrap_or_default();
    stream.push(if odd < 16 { input.arbitrary().unwrap_or_default() } else { first });
    let length = match number(input, 0..=7) {
        0..=4 => number(input, 0..=140),
        5 => number(input, 120..=400),
        6 if stream.is_empty() => number(input, 65_530..=65_540),
        _ => 0,
    };
    let mask: [u8; 4] = if odd == 16 { [0; 4] } else { input.arbitrary().unwrap_or_default() };
    let masked = if odd == 17 { 0 } else { 0x80 };
    match (length, odd % 8) {
        (0..126, 1..) => stream.push(masked | length as u8),
        (0..65_536, 1..) | (0..126, 0) => {
            stream.push(masked | 126);
            stream.extend((length as u16).to_be_bytes());
        }
        _ => {
            stream.push(masked | 127);
            stream.extend(u64::from(length).to_be_bytes());
        }
    }
    if masked != 0 {
        stream.extend(mask);
    }
    let known = number(input, 0..=24) as usize;
    let text = input.bytes(known).unwrap_or_default();
    let payload = text.iter().copied().chain(std::iter::repeat(b'x')).take(length as usize);
    stream.extend(payload.zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

fn read(
    stream: &[u8],
    limit: usize,
    mut cuts: impl Iterator<Item = usize>,
) -> (Vec<String>, Result<(), FrameError>) {
    let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(cuts.next().unwrap_or(1).clamp(1, rest.len()));
        rest = later;
        let result = decoder.feed(
            &mut piece.to_vec(),
            || limit,
            |message| {
                if let frame::Incoming::Text(text) = message {
                    assert!(text.len() <= limit, "a text of {} bytes, limit {limit}", text.len());
                }
                seen.push(format!("{message:?}"));
                Ok::<(), FrameError>(())
            },
        );
        if result.is_err() {
            return (seen, result);
        }
        assert!(decoder.held() <= limit + SLACK, "{} bytes held, limit {limit}", decoder.held());
    }
    (seen, Ok(()))
}
