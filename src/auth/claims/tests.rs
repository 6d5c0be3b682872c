//! What `claims` makes of bytes.

use serde_json::{Value, json};

use super::*;
use crate::auth::testing::{NOW, claims, hs256};

fn read(payload: &str) -> Result<Claims, TokenError> {
    Rules::new(&hs256(), &mut Vec::new()).unwrap().read(payload.as_bytes(), NOW)
}

fn with(name: &str, value: Value) -> Result<Claims, TokenError> {
    let mut claims = claims();
    claims[name] = value;
    read(&claims.to_string())
}

#[test]
fn all_claims_are_read() {
    let all = json!({
        "sub": "ana", "projects": {"p1": "editor", "p2": "editor", "p3": "viewer"},
        "device": "phone", "jti": "t1", "iat": NOW, "exp": NOW + 1, "other": {"deep": [1]},
    });
    let claims = read(&all.to_string()).unwrap();
    let projects: Vec<_> = claims.projects.iter().map(|(p, r)| (p.as_str(), r.as_str())).collect();
    assert_eq!(projects, [("p1", "editor"), ("p2", "editor"), ("p3", "viewer")]);
    assert_eq!((claims.device.as_deref(), claims.jti.as_deref()), (Some("phone"), Some("t1")));
    assert_eq!((claims.issued_at, claims.expires_at), (Some(NOW), NOW + 1));
}

#[test]
fn a_list_of_projects_gets_the_default_role() {
    let claims = with("projects", json!(["b", "a", "a"])).unwrap();
    let projects: Vec<_> = claims.projects.iter().map(|(p, r)| (p.as_str(), r.as_str())).collect();
    assert_eq!(projects, [("a", "viewer"), ("b", "viewer")]);
    assert!(with("projects", Value::Null).unwrap().projects.is_empty());
}

#[test]
fn configured_claim_names_are_used() {
    let auth = config::Auth {
        user_claim: "uid".into(),
        projects_claim: "https://example.org/projects".into(),
        ..hs256()
    };
    let rules = Rules::new(&auth, &mut Vec::new()).unwrap();
    let payload = json!({
        "uid": 42, "sub": "not this", "projects": "nor this",
        "https://example.org/projects": ["p"], "exp": NOW + 1,
    });
    let claims = rules.read(payload.to_string().as_bytes(), NOW).unwrap();
    assert_eq!(claims.user.as_str(), "42");
    assert_eq!(claims.projects.len(), 1);
}

#[test]
fn a_bad_claim_is_named_and_its_value_is_not() {
    for (name, value) in [
        ("sub", json!("")),
        ("sub", json!("s3cret:x")),
        ("sub", json!(["s3cret"])),
        ("sub", Value::Null),
        ("sub", json!(-1)),
        ("projects", json!("s3cret")),
        ("projects", json!({"s3cret!": "editor"})),
        ("projects", json!({"p": "s3cret!"})),
        ("projects", json!({"p": {"role": "s3cret"}})),
        ("projects", json!(["s3cret!"])),
        ("projects", json!([7])),
        ("device", json!({"id": "s3cret"})),
        ("jti", json!(7)),
        ("iat", json!("s3cret")),
        ("exp", json!("s3cret")),
        ("exp", Value::Null),
        ("nbf", json!([])),
    ] {
        let error = with(name, value.clone()).unwrap_err();
        assert!(matches!(error, TokenError::BadClaims(_)), "{name} {value}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("`{name}`")) && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn payloads_that_say_two_things_are_refused() {
    for payload in [
        r#"{"sub":"ana","sub":"eve","exp":9999999999}"#,
        r#"{"sub":"ana","exp":9999999999,"exp":1}"#,
        r#"{"sub":"ana","exp":9999999999,"projects":{"p":"viewer","p":"admin"}}"#,
        r#"{"sub":"ana","exp":9999999999} {}"#,
        r#"["ana"]"#,
        "",
    ] {
        assert!(matches!(read(payload), Err(TokenError::BadClaims(_))), "{payload}");
    }
}

#[test]
fn sizes_are_bounded() {
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    for name in ["sub", "device", "jti"] {
        assert!(matches!(with(name, json!(long)), Err(TokenError::TooLarge(_))), "{name}");
    }
    assert!(with("device", json!(&long[1..])).is_ok());
    let projects = |n: usize| (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>();
    assert!(with("projects", json!(projects(MAX_PROJECTS))).is_ok());
    let error = with("projects", json!(projects(MAX_PROJECTS + 1))).unwrap_err();
    assert!(matches!(error, TokenError::TooLarge(_)));
}

#[test]
fn impossible_rules_are_problems() {
    let auth = config::Auth {
        user_claim: "exp".into(),
        projects_claim: "exp".into(),
        default_role: "no role".into(),
        ..hs256()
    };
    let mut problems = Vec::new();
    assert!(Rules::new(&auth, &mut problems).is_none());
    assert_eq!(problems.len(), 4, "{problems:?}");
}
