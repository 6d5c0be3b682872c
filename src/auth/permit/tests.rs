use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::auth::claims::Claims;
use crate::auth::policy::Roles;
use crate::id::RoleName;

/// Ana with every role in a project of its name; `ghost` is a role that is not configured.
fn grants() -> Grants {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let role = |read: &[&str], write: &[&str], delete: &[&str], broadcast| config::Role {
        read: list(read),
        write: list(write),
        delete: list(delete),
        broadcast,
        ..config::Role::default()
    };
    let hidden = BTreeMap::from([("task".to_owned(), list(&["salary"]))]);
    let roles = BTreeMap::from([
        ("lead".to_owned(), config::Role { hidden, ..role(&["*"], &["*"], &["*"], true) }),
        ("viewer".to_owned(), role(&["*"], &[], &[], false)),
        ("editor".to_owned(), role(&["*"], &["*"], &["*"], true)),
        ("clerk".to_owned(), role(&["task"], &["task", "audit"], &["audit"], false)),
    ]);
    let roles = Roles::compile(&config::Roles(roles)).unwrap();
    let projects = ["viewer", "editor", "clerk", "lead", "ghost"]
        .map(|name| (ProjectId::new(name).unwrap(), RoleName::new(name).unwrap()));
    let claims = Claims {
        user: UserId::new("ana").unwrap(),
        projects: projects.into(),
        device: None,
        jti: None,
        issued_at: None,
        expires_at: 0,
    };
    Grants::resolve(&claims, &roles)
}

fn op(kind: &str, entity_type: &str) -> Op {
    let op = json!({ "op_id": "o", "kind": kind, "type": entity_type, "id": "1" });
    serde_json::from_value(op).unwrap()
}

const OK: Option<ErrorCode> = None;
const NO: Option<ErrorCode> = Some(ErrorCode::Forbidden);
const BAD: Option<ErrorCode> = Some(ErrorCode::BadRequest);

#[test]
fn rooms_by_role_and_command() {
    let grants = grants();
    for (room, read, presence, broadcast) in [
        ("project:viewer", OK, OK, BAD),
        ("project:clerk", OK, OK, BAD),
        ("project:ghost", NO, NO, NO),
        ("project:none", NO, NO, NO),
        ("entity:viewer:audit:1", OK, OK, BAD),
        ("entity:clerk:task:1", OK, OK, BAD),
        ("entity:clerk:audit:1", NO, NO, NO),
        ("entity:none:task:1", NO, NO, NO),
        ("user:ana", OK, BAD, BAD),
        ("user:bob", NO, NO, NO),
        ("room:viewer:call", OK, OK, NO),
        ("room:clerk:call", OK, OK, NO),
        ("room:editor:call", OK, OK, OK),
        ("room:ghost:call", NO, NO, NO),
        ("room:none:call", NO, NO, NO),
    ] {
        let room: Room = room.parse().unwrap();
        let code = |command| authorize(&grants, command).err().map(|refusal| refusal.code);
        assert_eq!(code(Command::Read(&room)), read, "read {room}");
        assert_eq!(code(Command::Presence(&room)), presence, "presence {room}");
        assert_eq!(code(Command::Broadcast(&room)), broadcast, "broadcast {room}");
    }
}

#[test]
fn projects_by_role_and_operation() {
    let grants = grants();
    for (project, entity_type, write, delete) in [
        ("viewer", "task", NO, NO),
        ("editor", "task", OK, OK),
        ("clerk", "task", OK, NO),
        // May be written but not read: a conflict would show it.
        ("clerk", "audit", NO, NO),
    ] {
        let project = ProjectId::new(project).unwrap();
        let permit = authorize(&grants, Command::Write(&project)).unwrap();
        let code = |kind| permit.allows(&op(kind, entity_type)).err().map(|refusal| refusal.code);
        assert_eq!(code("create"), write, "create {entity_type} in {project}");
        assert_eq!(code("update"), write, "update {entity_type} in {project}");
        assert_eq!(code("delete"), delete, "delete {entity_type} in {project}");
        assert!(authorize(&grants, Command::Ack(&project)).is_ok());
    }
}

#[test]
fn a_hidden_field_is_not_written() {
    let grants = grants();
    let project = ProjectId::new("lead").unwrap();
    let permit = authorize(&grants, Command::Write(&project)).unwrap();
    let refusal = |kind: &str, entity_type: &str, field: &str| {
        let mut op = op(kind, entity_type);
        op.fields.insert(field.to_owned(), json!(1));
        permit.allows(&op).err()
    };
    for kind in ["create", "update"] {
        let refusal = refusal(kind, "task", "salary").unwrap();
        assert_eq!(refusal.code, ErrorCode::Forbidden);
        assert_eq!(refusal.message, "the role `lead` may not write `salary` of `task`");
    }
    assert_eq!(refusal("update", "task", "title"), None);
    assert_eq!(refusal("update", "note", "salary"), None);
    assert_eq!(refusal("delete", "task", "note"), None);
}

#[test]
fn what_is_not_granted_looks_like_what_does_not_exist() {
    let grants = grants();
    let refusal = |name: &str| {
        let project = ProjectId::new(name).unwrap();
        let room = Room::Project(project.clone());
        [Command::Read(&room), Command::Write(&project), Command::Ack(&project)]
            .map(|command| authorize(&grants, command).unwrap_err())
    };
    assert_eq!(refusal("ghost"), refusal("none"));
    let [first, ..] = refusal("none");
    assert!(refusal("none").iter().all(|other| *other == first));
}

#[test]
fn a_permit_says_what_it_is_for() {
    let grants = grants();
    let project = ProjectId::new("editor").unwrap();
    let permit = authorize(&grants, Command::Write(&project)).unwrap();
    assert_eq!(permit.act(), Act::Write);
    assert_eq!(permit.user().as_str(), "ana");
    assert_eq!(permit.project(), Some(&project));
    assert_eq!(permit.role().unwrap().name.as_str(), "editor");

    let ack = authorize(&grants, Command::Ack(&project)).unwrap();
    assert!(ack.allows(&op("create", "task")).is_err(), "an ack's permit wrote");

    let inbox: Room = "user:ana".parse().unwrap();
    let inbox = authorize(&grants, Command::Read(&inbox)).unwrap();
    assert!(inbox.project().is_none() && inbox.in_project().is_err());
}

#[test]
fn the_admin_token_opens_the_admin_api_unless_it_is_off() {
    let code = |given, configured| authorize_admin(given, configured).err().map(|r| r.code);
    assert_eq!(code("", ""), Some(ErrorCode::NotFound));
    assert_eq!(code("x", ""), Some(ErrorCode::NotFound));
    assert_eq!(code("secret", "secret"), None);
    for wrong in ["", "secre", "secret2", "Secret"] {
        assert_eq!(code(wrong, "secret"), Some(ErrorCode::Unauthorized), "{wrong}");
    }
}

fn event_mac(secret: &str, event: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(event);
    hex::encode(mac.finalize().into_bytes())
}

#[test]
fn events_are_signed_by_a_configured_source_if_there_is_one() {
    let event = b"{}";
    let open = config::Ingest::default();
    assert!(ingest_authority(&open, event, None, None).is_ok());

    let source =
        |name: &str, secret: &str| config::Source { name: name.into(), secret: secret.into() };
    let sources = vec![source("billing", "one"), source("crm", "two")];
    let cfg = config::Ingest { sources, ..config::Ingest::default() };
    let (one, two) = (event_mac("one", event), event_mac("two", event));
    assert!(ingest_authority(&cfg, event, Some("billing"), Some(&one)).is_ok());
    assert!(ingest_authority(&cfg, event, Some("crm"), Some(&two)).is_ok());
    let mut refusals = Vec::new();
    for (event, source, sig) in [
        (&b"{}"[..], None, None),
        (b"{}", Some("billing"), None),
        (b"{}", None, Some(one.as_str())),
        (b"{}", Some("billing"), Some(two.as_str())),
        (b"{}", Some("nobody"), Some(one.as_str())),
        (b"{}", Some("billing"), Some(&one[..62])),
        (b"{}", Some("billing"), Some("")),
        (b"{}", Some("billing"), Some("zz")),
        (b"{ }", Some("billing"), Some(one.as_str())),
    ] {
        refusals.push(ingest_authority(&cfg, event, source, sig).unwrap_err());
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]));
}

#[test]
fn a_backend_may_do_everything_in_its_project() {
    let admin = authorize_admin("secret", "secret").unwrap();
    let project = ProjectId::new("p").unwrap();
    let source = UserId::new("billing").unwrap();
    let permit = Permit::backend(&IngestAuthority::from(&admin), project.clone(), source);
    assert_eq!((permit.user().as_str(), permit.project()), ("billing", Some(&project)));
    for kind in ["create", "update", "delete"] {
        permit.allows(&op(kind, "anything")).unwrap();
    }
}
