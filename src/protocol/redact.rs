//! Takes fields that a reader may not see out of finished JSON, and leaves every other byte as it was.
//!
//! Called for roles that hide fields: by [`crate::fanout::view`] for changes, by
//! [`crate::sync::submission`] for verdicts, and by the session for conflicts. What cannot be read is not
//! shown.

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

/// A `change` without the hidden fields. An update of hidden fields alone shows what a delta shows of it,
/// the version, so that a copy and its checksum stay right; not who did it, when, or by which operation.
#[must_use]
pub fn change(payload: &[u8], hidden: &[Box<str>]) -> Option<Vec<u8>> {
    let mut change: Members<'_> = serde_json::from_slice(payload).ok()?;
    let is_update = change.get("kind")? == r#""update""#;
    let mut is_empty = false;
    for (name, value) in &mut change.0 {
        if name == "fields" {
            let fields = without(value, hidden)?;
            is_empty = fields.get() == "{}";
            *value = Cow::Owned(fields);
        }
    }
    if is_update && is_empty {
        change.0.retain(|(name, _)| !matches!(&**name, "actor" | "at" | "op_id"));
    }
    serde_json::to_vec(&change).ok()
}

/// A verdict that shows nothing of the hidden fields.
#[must_use]
pub fn verdict(verdict: Box<RawValue>, hidden: &[Box<str>]) -> Box<RawValue> {
    edited(verdict, |name, value| match name {
        "current" => Some(entity(value, hidden)),
        "fields" => Some(without(value, hidden).unwrap_or_else(nothing)),
        _ => None,
    })
}

/// A verdict that shows nothing of the entity.
#[must_use]
pub fn blind(verdict: Box<RawValue>) -> Box<RawValue> {
    edited(verdict, |name, _| matches!(name, "current" | "fields").then(nothing))
}

/// A verdict with some of its members replaced; byte for byte as it was if none is.
fn edited(
    verdict: Box<RawValue>,
    edit: impl Fn(&str, &RawValue) -> Option<Box<RawValue>>,
) -> Box<RawValue> {
    let Ok(mut members) = serde_json::from_str::<Members<'_>>(verdict.get()) else {
        return nothing(); // the hub writes objects only
    };
    let mut any = false;
    for (name, value) in &mut members.0 {
        if let Some(other) = edit(name, value) {
            *value = Cow::Owned(other);
            any = true;
        }
    }
    if any { to_raw_value(&members).expect("members have string keys") } else { verdict }
}

/// A `conflict` without the hidden fields.
#[must_use]
pub fn conflict(payload: &[u8], hidden: &[Box<str>]) -> Option<Vec<u8>> {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }
    let mut frame: Members<'_> = serde_json::from_slice(payload).ok()?;
    for (_, value) in frame.0.iter_mut().filter(|(name, _)| name == "conflict") {
        let mut conflict: Members<'_> = serde_json::from_str(value.get()).ok()?;
        for (_, list) in conflict.0.iter_mut().filter(|(name, _)| name == "fields") {
            let mut fields: Vec<&RawValue> = serde_json::from_str(list.get()).ok()?;
            fields.retain(|field| {
                serde_json::from_str::<Named<'_>>(field.get())
                    .is_ok_and(|Named { name }| !is_hidden(hidden, &name))
            });
            *list = Cow::Owned(to_raw_value(&fields).ok()?);
        }
        let conflict = to_raw_value(&conflict).ok()?;
        *value = Cow::Owned(conflict);
    }
    serde_json::to_vec(&frame).ok()
}

/// An entity's state without the hidden fields.
fn entity(state: &RawValue, hidden: &[Box<str>]) -> Box<RawValue> {
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

fn nothing() -> Box<RawValue> {
    to_raw_value(&()).expect("null is JSON")
}

fn is_hidden(hidden: &[Box<str>], field: &str) -> bool {
    hidden.binary_search_by(|name| (**name).cmp(field)).is_ok()
}

fn without(fields: &RawValue, hidden: &[Box<str>]) -> Option<Box<RawValue>> {
    let mut fields: Members<'_> = serde_json::from_str(fields.get()).ok()?;
    fields.0.retain(|(name, _)| !is_hidden(hidden, name));
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
    fn an_update_of_hidden_fields_alone_shows_its_version_but_not_who_did_it() {
        let with = |kind: &str, fields: &str, rest: &str| {
            format!(r#"{{"kind":"{kind}","version":7,"fields":{{{fields}}}{rest}}}"#)
        };
        let (salary, who) = (r#""salary":1"#, r#","actor":"ana","at":5,"op_id":"o""#);
        assert_eq!(redacted(&with("update", salary, who)).unwrap(), with("update", "", ""));
        assert_eq!(redacted(&with("create", salary, who)).unwrap(), with("create", "", who));
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
        let merged = r#"{"outcome":"merged","fields":{"a":1,"salary":2}}"#;
        assert_eq!(show(merged), r#"{"outcome":"merged","fields":{"a":1}}"#);
        let unseen = r#"{"op_id":"o","current":null}"#;
        assert_eq!(blind(raw(&conflict(r#""a":1"#))).get(), unseen);
        assert_eq!(blind(raw(applied)).get(), applied);
    }

    #[test]
    fn a_conflict_lists_no_hidden_field() {
        let whole = r#"{"type":"conflict","conflict":{"id":"c","fields":[{"name":"a","server":1},{"name":"sal\u0061ry","server":2},{"client":3}],"at":1}}"#;
        let rest = r#"{"type":"conflict","conflict":{"id":"c","fields":[{"name":"a","server":1}],"at":1}}"#;
        let shown = |payload: &str| conflict(payload.as_bytes(), &hidden());
        assert_eq!(String::from_utf8(shown(whole).unwrap()).unwrap(), rest);
        assert_eq!(shown("[]"), None);
        assert_eq!(shown(r#"{"conflict":{"fields":1}}"#), None);
    }
}
