//! What `event` makes of bytes.

use super::*;

fn decode(text: &str) -> Result<Event, EventError> {
    Event::decode(text.as_bytes(), &Limits { op_bytes: 1000, notify_users: 2, ..Limits::default() })
}

#[test]
fn a_value_that_readers_would_choke_on_is_refused() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for value in [deep.as_str(), r#""\ud800""#, "1e400"] {
        let text = format!(
            r#"{{"project":"p","kind":"upsert","entity":{{"type":"task","id":"1"}},"fields":{{"f":{value}}}}}"#
        );
        assert!(
            matches!(decode(&text), Err(EventError::Value(_) | EventError::Malformed(_))),
            "{value}"
        );
    }
}

#[test]
fn an_event_becomes_an_operation() {
    let event = decode(
        r#"{"id":"e1","project":"p","kind":"upsert","entity":{"type":"task","id":"t"},
            "fields":{"a":1},"source":"erp","source_version":7,"actor":"ana",
            "notify":{"users":["bo"],"title":"hi"}}"#,
    )
    .unwrap();
    let op = event.operation().unwrap();
    assert_eq!((op.op.op_id.as_str(), op.op.kind, op.upsert), ("e1", OpKind::Create, true));
    assert_eq!((op.actor.user.as_str(), op.actor.client.as_str()), ("ana", "source:erp"));
    assert_eq!(op.source, Some(SourceVersion { source: "erp".into(), version: 7 }));
    assert_eq!(op.op.notify.unwrap().title, "hi");
}

#[test]
fn an_event_is_about_a_member() {
    let event = |role: &str, more: &str| {
        let text = format!(
            r#"{{"id":"m1","project":"p","kind":"member","user":"ana","role":{role}{more}}}"#
        );
        decode(&text).unwrap()
    };
    let member = event(r#""editor""#, r#","source":"erp""#).member().unwrap();
    assert_eq!((member.op_id.as_str(), member.user.as_str()), ("m1", "ana"));
    assert_eq!(member.role.as_ref().map(RoleName::as_str), Some("editor"));
    assert_eq!(member.client, "source:erp");
    let removed = event("null", "").member().unwrap();
    assert_eq!(removed.role, None);
    assert_ne!(member.payload_hash, removed.payload_hash);
    assert!(event("null", "").operation().is_none());
}

#[test]
fn the_actor_is_the_source_or_the_backend() {
    let actor = |source: &str| {
        decode(&format!(
            r#"{{"project":"p","kind":"delete","entity":{{"type":"t","id":"1"}}{source}}}"#
        ))
        .unwrap()
        .actor
        .to_string()
    };
    assert_eq!((actor(r#","source":"erp""#), actor("")), ("erp".into(), "backend".into()));
}

#[test]
fn what_does_not_fit_is_refused() {
    for text in [
        "",
        "[]",
        "\"x\"",
        r#"{"project":"p","kind":"upsert","fields":{}}"#,
        r#"{"project":"p","kind":"rename","entity":{"type":"t","id":"1"}}"#,
        r#"{"project":"p q","kind":"delete","entity":{"type":"t","id":"1"}}"#,
        r#"{"project":"p","kind":"delete","entity":{"type":"T","id":"1"}}"#,
        r#"{"project":"p","kind":"delete","entity":{"type":"t","id":"1"},"fields":{}}"#,
        r#"{"project":"p","kind":"patch","entity":{"type":"t","id":"1"}}"#,
        r#"{"project":"p","kind":"delete","entity":{"type":"t","id":"1"},"souce":"x"}"#,
        r#"{"project":"p","kind":"delete","entity":{"type":"t","id":"1"},"source":"a\u0000b"}"#,
        r#"{"project":"p","kind":"delete","entity":{"type":"t","id":"1"},"source_version":1}"#,
        r#"{"project":"p","kind":"delete","entity":{"type":"t","id":"1"},"user":"ana"}"#,
        r#"{"project":"p","kind":"member","user":"ana"}"#,
        r#"{"project":"p","kind":"member","role":"editor"}"#,
        r#"{"project":"p","kind":"member","user":"ana","role":"a b"}"#,
        r#"{"project":"p","kind":"member","user":"ana","role":"editor","fields":{}}"#,
        r#"{"project":"p","kind":"broadcast","room":"room:p:x","event":"e","role":null}"#,
        r#"{"project":"p","kind":"broadcast","room":"room:q:x","event":"e"}"#,
        r#"{"project":"p","kind":"broadcast","room":"user:ana","event":"e"}"#,
        r#"{"project":"p","kind":"broadcast","room":"room:p:x"}"#,
        r#"{"project":"p","kind":"broadcast","room":"room:p:x","event":"e","fields":{}}"#,
    ] {
        assert!(decode(text).is_err(), "{text} was taken for an event");
    }
    let notify = |users: &str| {
        decode(&format!(
            r#"{{"project":"p","kind":"delete","entity":{{"type":"t","id":"1"}},
                "notify":{{"users":[{users}],"title":"hi"}}}}"#
        ))
    };
    assert!(notify(r#""a","b""#).is_ok());
    assert!(matches!(notify(r#""a","b","c""#), Err(EventError::TooManyRecipients(2))));
    let large = format!("\"{}\"", "x".repeat(1000));
    assert!(matches!(decode(&large), Err(EventError::TooLarge(1000))));
}

#[test]
fn an_events_fields_have_the_limits_of_an_operations() {
    let code = |fields: &str| {
        let text = format!(
            r#"{{"project":"p","kind":"upsert","entity":{{"type":"task","id":"1"}},"fields":{fields}}}"#
        );
        let limits = Limits { op_fields: 2, op_string_bytes: 4, op_depth: 2, ..Limits::default() };
        Event::decode(text.as_bytes(), &limits).map_or_else(|error| error.code(), |_| "taken")
    };
    assert_eq!(code(r#"{"a":"four","b":[[1]]}"#), "taken");
    assert_eq!(code(r#"{"":1}"#), "bad_request", "the name stands for all fields in stamps");
    for fields in [r#"{"a":1,"b":2,"c":3}"#, r#"{"a":"fives"}"#, r#"{"a":[[[1]]]}"#] {
        assert_eq!(code(fields), "limit_exceeded", "{fields}");
    }
}

#[test]
fn events_without_an_id_are_told_apart() {
    assert_eq!(entry_id("5-0", b"a"), entry_id("5-0", b"a"));
    assert_ne!(entry_id("5-0", b"a"), entry_id("5-1", b"a"));
    assert_eq!(content_id(b"a", 1), content_id(b"a", 1999));
    assert_ne!(content_id(b"a", 1), content_id(b"b", 1));
    assert_ne!(content_id(b"a", 1), content_id(b"a", 2000));
}
