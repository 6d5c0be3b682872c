//! SHA-256 over text as it was sent, so that what was damaged on its way is refused and not applied.
//!
//! An operation carries its own as its last member, `{…,"checksum":"…"}`, over its text without that
//! member; a request carries one over the text of its `ops` list.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How a checksum of an operation begins and how long it is, the closing brace included.
const MEMBER: &str = ",\"checksum\":\"";
const TAIL: usize = MEMBER.len() + 64 + 2;

/// Whether `checksum`, 64 hex digits in lower case, is that of `text`.
#[must_use]
pub fn matches(text: &str, checksum: &str) -> bool {
    let actual = hex::encode(Sha256::digest(text));
    actual.as_bytes().ct_eq(checksum.as_bytes()).into()
}

/// Whether an operation is what its checksum says; `None` if it has none. A checksum in another place
/// than the end, of another type than a text, or given twice counts as wrong.
#[must_use]
pub fn of_op(raw: &str) -> Option<bool> {
    #[derive(serde::Deserialize)]
    struct Carried<'a> {
        #[serde(borrow)]
        checksum: Option<std::borrow::Cow<'a, str>>,
    }
    // Most operations have none, and the text is not read twice to find that out.
    if !raw.contains("checksum") {
        return None;
    }
    let Ok(Carried { checksum }) = serde_json::from_str(raw) else { return Some(false) };
    let carried = checksum?;
    let Some(start) = raw.len().checked_sub(TAIL).filter(|at| raw.is_char_boundary(*at)) else {
        return Some(false);
    };
    let (text, tail) = raw.split_at(start);
    let in_place = tail.starts_with(MEMBER) && tail.ends_with("\"}");
    Some(in_place && matches(&format!("{text}}}"), &carried))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(text: &str) -> String {
        let checksum = hex::encode(Sha256::digest(text));
        format!("{},\"checksum\":\"{checksum}\"}}", text.strip_suffix('}').unwrap())
    }

    #[test]
    fn what_arrives_as_it_was_sent_passes_and_nothing_else() {
        let op = r#"{"op_id":"é","fields":{"checksum":"x"}}"#;
        assert_eq!(of_op(op), None, "a field of that name is not a checksum");
        let sealed = sealed(op);
        assert_eq!(of_op(&sealed), Some(true));
        for damaged in [
            sealed.replace("é", "e"),
            sealed.replace(":{", ": {"),
            sealed.replacen(",\"checksum\"", ", \"checksum\"", 1),
            sealed.replace("\"checksum\":\"x\"", "\"checksum\":\"y\""),
            r#"{"checksum":"","a":1}"#.to_owned(),
            r#"{"a":1,"checksum":5}"#.to_owned(),
            sealed.replacen('{', "{\"checksum\":\"x\",", 1),
            r#"{"checksum":""}"#.to_owned(),
        ] {
            assert_eq!(of_op(&damaged), Some(false), "{damaged}");
        }
    }
}
