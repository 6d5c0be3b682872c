//! Which JSON values the hub takes: those that every reader after it can read, and reads as they were.
//!
//! The syntax of JSON allows more than its readers do: endless nesting, halves of a surrogate pair, a character
//! that ends texts in C and that PostgreSQL's JSONB does not take, numbers that are infinite or that JavaScript
//! rounds silently. A value with one of these would pass the hub as raw text
//! and break whoever reads it later, so it is refused where it comes in. Called by [`super::client`].

use serde_json::value::RawValue;

use super::error::{ErrorCode, Refusal};

/// How deep arrays and objects of a value may nest. Many readers end at 128, and frames nest values a
/// few levels deeper.
pub const MAX_DEPTH: usize = 64;

/// Checks a value.
///
/// # Errors
/// A `bad_request` that says what is wrong with it.
pub fn check(raw: &RawValue) -> Result<(), Refusal> {
    scan(raw.get().as_bytes()).map_err(|problem| Refusal::new(ErrorCode::BadRequest, problem))
}

/// Whether JavaScript, too, tells an integer from its neighbours.
#[must_use]
pub fn is_exact(n: i64) -> bool {
    n.unsigned_abs() < 1 << 53
}

/// What is wrong with a text, without the values in it: errors are shown and logged where what people write is not.
pub fn reason(error: &serde_json::Error) -> String {
    let told = error.to_string();
    for what in ["invalid type: ", "invalid value: "] {
        if let Some(rest) = told.strip_prefix(what)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            return format!("{what}{kind}, expected {expected}");
        }
    }
    told
}

/// The text is known to be JSON, so that only what the syntax leaves open is looked at.
fn scan(json: &[u8]) -> Result<(), &'static str> {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => {
                at = string(json, at + 1)?;
                continue;
            }
            b'-' | b'0'..=b'9' => {
                at = number(json, at)?;
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err("a value must not nest deeper than 64 arrays and objects");
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Reads a string from behind its opening quote; returns where it ended.
fn string(json: &[u8], mut at: usize) -> Result<usize, &'static str> {
    const LONELY: &str = "a text must not contain half of a surrogate pair";
    const NUL: &str = "a text must not contain the character U+0000";
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' if json.get(at + 1) == Some(&b'u') => match unit(json, at) {
                Some(0xd800..=0xdbff) => match unit(json, at + 6) {
                    Some(0xdc00..=0xdfff) => at += 12,
                    _ => return Err(LONELY),
                },
                Some(0xdc00..=0xdfff) => return Err(LONELY),
                Some(0) => return Err(NUL),
                _ => at += 6,
            },
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// The UTF-16 code unit that `\uXXXX` stands for.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Reads a number; returns where it ended.
fn number(json: &[u8], start: usize) -> Result<usize, &'static str> {
    let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = json[start..].iter().take_while(|b| is_part(b)).count();
    let end = start + length;
    let text = std::str::from_utf8(&json[start..end]).unwrap_or_default();
    if text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
        if !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err("a number must be finite as a 64-bit float");
        }
    } else if length > 15 && !text.parse().is_ok_and(is_exact) {
        return Err("an integer must lie within ±(2^53 - 1); send larger ones as text");
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn verdict(text: &str) -> Result<(), Refusal> {
        check(&RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn what_is_wrong_is_told_without_the_value() {
        for (text, told) in [
            (
                r#""se\"cret\", expected 5""#,
                "invalid type: string, expected u8 at line 1 column 24",
            ),
            ("[]", "invalid type: sequence, expected u8 at line 1 column 0"),
            ("777", "invalid value: integer, expected u8 at line 1 column 3"),
        ] {
            assert_eq!(reason(&serde_json::from_str::<u8>(text).unwrap_err()), told);
        }
    }

    #[test]
    fn values_every_reader_takes_pass() {
        let deep = format!("{}1{}", "[".repeat(64), "]".repeat(64));
        for text in [
            "null",
            r#""\u0001 \ud83d\ude80 \\ud800 \\u0000 \" [[[ 1e999""#,
            r#"{"a":[1,{"b":-0}],"":[]}"#,
            "[9007199254740991,-9007199254740991,999999999999999]",
            "[1.7976931348623157e308,5e-324,1e-999,0.1234567890123456789012345]",
            &deep,
            &format!("[{}]", ["[[]]"; 100].join(",")),
        ] {
            assert_eq!(verdict(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn values_some_reader_refuses_or_changes_are_refused() {
        for text in [
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            r#""\ud800\\udc00""#,
            r#""\ude80""#,
            r#"{"a\uD83D":1}"#,
            "1e400",
            "[-1.5E+309]",
            r#"["a\u0000"]"#,
            r#"{"\u0000":1}"#,
            "9007199254740992",
            "[-9007199254740992]",
            r#"{"a":9007199254740993}"#,
            "18446744073709551615",
            "99999999999999999999999999999999999999999",
            &format!("{}{}", "[".repeat(65), "]".repeat(65)),
            &format!("{}1{}", r#"{"a":["#.repeat(33), "]}".repeat(33)),
            &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            let refusal = verdict(text).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadRequest, "{text}");
        }
    }
    proptest! {
        /// A float is stored as the text it came as, or as another text of the same float.
        #[test]
        fn a_float_is_read_back_as_it_was_written(
            float in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO,
        ) {
            for text in [format!("{float:e}"), format!("{float:?}")] {
                prop_assert_eq!(verdict(&text), Ok(()));
                let read: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(read.as_f64().map(f64::to_bits), Some(float.to_bits()));
            }
        }
    }
}
