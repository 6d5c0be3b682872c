//! What names a request in the logs of everything it passed: the proxy, the hub, the client that shows it with an
//! error.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header, in requests and in answers.
pub(super) const NAME: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that is taken over.
const LONGEST: usize = 128;

/// The id that a proxy gave, or one of our own: what a stranger says goes into the log only if it is plain.
pub(super) fn of(headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        !bytes.is_empty() && bytes.len() <= LONGEST && bytes.iter().all(known)
    };
    headers.get(NAME).filter(plain).cloned().unwrap_or_else(|| {
        let id = Uuid::new_v4().simple().to_string();
        HeaderValue::from_str(&id).expect("hexadecimal digits are a header's value")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_taken_over_and_anything_else_replaced() {
        let of = |id: &str| {
            let headers = [(NAME, HeaderValue::from_str(id).unwrap())].into_iter().collect();
            of(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(of("b7f1-3.a_Z"), "b7f1-3.a_Z");
        for id in ["", "a b", "\"a\"", "a=b", &"a".repeat(129)] {
            let given = of(id);
            assert_ne!(given, id);
            assert_eq!(given.len(), 32);
        }
        assert_ne!(super::of(&HeaderMap::new()), super::of(&HeaderMap::new()));
    }
}
