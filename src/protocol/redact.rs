//! Takes fields that a reader may not see out of finished JSON, and leaves every other byte as it was.
//!
//! Called for roles that hide fields: by [`crate::fanout::view`] for changes, and by
//! [`crate::sync::submission`] for verdicts. What cannot be read is not shown.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// The members of a JSON object, in their order.
struct Members<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl Members<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| value.get())
    }
}

/// A `change` without the hidden fields; none if an update is left without any. A create or a delete is
/// seen even if nothing of it is: the entity is there, or is not.
#[must_use]
pub fn change(payload: &[u8], hidden: &[Box<str>]) -> Option<Vec<u8>> {
    let mut change: Members<'_> = serde_json::from_slice(payload).ok()?;
    let is_update = change.get("kind")? == r#""update""#;
    for (name, value) in &mut change.0 {
        if name == "fields" {
            let fields = without(value, hidden)?;
            if fields.get() == "{}" && is_update {
                return None;
            }
            *value = Cow::Owned(fields);
        }
    }
    serde_json::to_vec(&change).ok()
}

/// A verdict that shows nothing of the hidden fields.
#[must_use]
pub fn verdict(verdict: Box<RawValue>, hidden: &[Box<str>]) -> Box<RawValue> {
    let Ok(mut members) = serde_json::from_str::<Members<'_>>(verdict.get()) else {
        return verdict; // the hub writes objects only
    };
    if members.get("current").is_none() {
        return verdict;
    }
    for (name, value) in &mut members.0 {
        if name == "current" {
            *value = Cow::Owned(entity(value, hidden));
        }
    }
    to_raw_value(&members).expect("members have string keys")
}

/// An entity's state without the hidden fields.
fn entity(state: &RawValue, hidden: &[Box<str>]) -> Box<RawValue> {
    let nothing = || to_raw_value(&()).expect("null is JSON");
    let Ok(mut members) = serde_json::from_str::<Members<'_>>(state.get()) else {
        return nothing();
    };
    for (name, value) in &mut members.0 {
        if name == "fields" {
            *value = Cow::Owned(without(value, hidden).unwrap_or_else(nothing));
        }
    }
    to_raw_value(&members).expect("members have string keys")
}

fn without(fields: &RawValue, hidden: &[Box<str>]) -> Option<Box<RawValue>> {
    let mut fields: Members<'_> = serde_json::from_str(fields.get()).ok()?;
    fields.0.retain(|(name, _)| hidden.binary_search_by(|h| (**h).cmp(name)).is_err());
    to_raw_value(&fields).ok()
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, Cow::Borrowed(map.next_value()?)));
                }
                Ok(Members(members))
            }
        }
        json.deserialize_map(Read)
    }
}

/// A text that is only copied if it has escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut map = json.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden() -> Vec<Box<str>> {
        ["iban", "salary"].map(Into::into).into()
    }

    fn redacted(payload: &str) -> Option<String> {
        change(payload.as_bytes(), &hidden()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn hidden_fields_are_cut_out_and_the_rest_is_untouched() {
        let whole = r#"{"type":"change","seq":7,"kind":"update","fields":{"a":1.50,"sal\u0061ry":9,"z":{"salary":1},"iban":"x"},"actor":"sa\u006ca"}"#;
        let rest = r#"{"type":"change","seq":7,"kind":"update","fields":{"a":1.50,"z":{"salary":1}},"actor":"sa\u006ca"}"#;
        assert_eq!(redacted(whole).unwrap(), rest);
        assert_eq!(redacted(rest).unwrap(), rest);
    }

    #[test]
    fn an_update_of_hidden_fields_alone_is_nothing_but_a_create_or_delete_stays() {
        let with = |kind: &str| format!(r#"{{"kind":"{kind}","fields":{{"salary":1}}}}"#);
        assert_eq!(redacted(&with("update")), None);
        assert_eq!(redacted(&with("create")).unwrap(), r#"{"kind":"create","fields":{}}"#);
        let delete = r#"{"kind":"delete","seq":8}"#;
        assert_eq!(redacted(delete).unwrap(), delete);
    }

    #[test]
    fn what_cannot_be_read_is_not_shown() {
        for payload in ["", "[]", "{}", r#"{"kind":"update","fields":[]}"#, r#"{"kind":"update""#] {
            assert_eq!(redacted(payload), None, "{payload}");
        }
    }

    #[test]
    fn a_verdict_keeps_its_bytes_but_for_hidden_fields() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let show = |text: &str| verdict(raw(text), &hidden()).get().to_owned();
        let applied = r#"{"op_id":"o", "outcome":"applied"}"#;
        assert_eq!(show(applied), applied);
        let conflict = |fields: &str| {
            format!(r#"{{"op_id":"o","current":{{"version":7,"fields":{{{fields}}}}}}}"#)
        };
        assert_eq!(show(&conflict(r#""salary":1,"a":1.0"#)), conflict(r#""a":1.0"#));
    }
}
