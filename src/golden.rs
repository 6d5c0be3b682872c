//! One of each thing the hub says, in the hub's own bytes: with all it can hold, and with as little as it can.
//!
//! `clients/typescript/schema/frames.json` holds what this makes, and the client's tests read it; so what is named
//! anew here is missed there. A test compares; with `SYNCLINE_WRITE=1` it writes the file anew.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;

use axum::body::to_bytes;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, from_value, json};

use crate::id::{EntityKey, Epoch, ProjectId, RoleName, Room, Seq, UserId};
use crate::net::problem::Problem;
use crate::protocol::client::RequestId;
use crate::protocol::conflict::Conflict;
use crate::protocol::error::{CloseCode, ErrorCode, Refusal};
use crate::protocol::op::{ChangeKind, EntityState, Lane, StoredVerdict, Verdict};
use crate::protocol::server::{
    Change, Connected, GoneReason, Loss, Member, Notification, PresenceDelta, PresenceList,
    ProjectGrant, RawState, ResyncReason, ServerFrame, SubscribeResult, Subscribed,
};
use crate::protocol::{frame, redact};

fn of<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).unwrap()
}

fn encoded(frame: &ServerFrame<'_>) -> String {
    String::from_utf8(frame::payload(&frame.encode()).to_vec()).unwrap()
}

const EPOCH: &str = "0b8f5c9e-6f1a-4c39-9d4e-2a7f2d1f8a10";
const CONFLICT: &str = "0192f0c1-0000-7000-8000-0000000000c1";

fn refusals() -> [Refusal; 2] {
    let full = Refusal::limit("rooms", 200).retry_after(1500);
    [full, Refusal::new(ErrorCode::Forbidden, "the token does not grant this")]
}

fn verdicts() -> [Verdict; 2] {
    let full = json!({
        "op_id": "o1", "outcome": "superseded", "id": "t1", "local_id": "local:a", "seq": 4713, "version": 4714,
        "code": "fields", "message": "somebody else's edit stands", "fields": { "hours": 9 },
        "current": { "version": 4712, "deleted": true, "fields": { "hours": 7 } }, "conflict": CONFLICT,
    });
    let bare = json!({ "op_id": "o2", "outcome": "rejected", "id": "local:b" });
    [full, bare].map(|verdict| from_value(verdict).unwrap())
}

fn conflicts() -> [Conflict; 2] {
    let bare = json!({
        "id": CONFLICT, "kind": "deleted", "state": "open", "outcome": "conflict", "strategy": "manual",
        "entity": { "type": "task", "id": "t1" }, "op_id": "o1", "op_kind": "update", "user": "ana",
        "client": "phone-1", "base": 4711, "server_version": 4712, "fields": [], "created_at": 1_764_000_000_000_u64,
    });
    let mut full = bare.clone();
    full["kind"] = "fields".into();
    full["state"] = "resolved".into();
    full["fields"] = json!([
        { "name": "approval", "was": null, "client": "ana", "server": "bo", "result": "ana", "conflict": true, "strategy": "manual" },
        { "name": "title", "conflict": false, "strategy": "merge" },
    ]);
    full["resolved_at"] = 1_764_000_001_000_u64.into();
    full["resolved_by"] = "o3".into();
    [full, bare].map(|conflict| from_value(conflict).unwrap())
}

fn member(user: &str, state: Option<Value>) -> Member {
    Member { user: of(user), state: state.map(|state| RawState(raw(&state).into())) }
}

fn session(id: Option<&RequestId>, project: &ProjectId) -> Vec<String> {
    let (user, role): (UserId, RoleName) = (of("ana"), of("editor"));
    let limits = raw(&json!({ "ops_per_write": 500 }));
    let connected = |id, projects| {
        let (server_time, ttl, ping_interval) = (1_764_000_000_000, 3600, 25);
        let session = "2a00000001";
        ServerFrame::Connected(Box::new(Connected {
            id,
            session,
            user: &user,
            server_time,
            ttl,
            ping_interval,
            projects,
            limits: &limits,
        }))
    };
    let grant = || ProjectGrant { role: &role };
    let lost: ProjectId = of("site-9");
    let [full, bare] = refusals();
    let reason = CloseCode::ShuttingDown.reason();
    [
        connected(id, BTreeMap::from([(project, grant())])),
        connected(None, BTreeMap::new()),
        ServerFrame::Refreshed { id, ttl: 3600 },
        ServerFrame::Refreshed { id: None, ttl: 3600 },
        ServerFrame::TokenExpiring { ttl: 60 },
        ServerFrame::Access { projects: [(project, Some(grant())), (&lost, None)].into() },
        ServerFrame::Goodbye { reason, reconnect_in_ms: 2381, resume: true },
        ServerFrame::Pong { id },
        ServerFrame::Pong { id: None },
        ServerFrame::Error { id, refusal: &full },
        ServerFrame::Error { id: None, refusal: &bare },
    ]
    .iter()
    .map(encoded)
    .collect()
}

fn rooms(id: Option<&RequestId>, project: &ProjectId) -> Vec<String> {
    let room = Room::Project(project.clone());
    let meeting: Room = of("room:site-7:plan");
    let epoch = Epoch(of(EPOCH));
    let (here, left) = ([member("ana", Some(json!({ "at": 3 }))), member("bo", None)], [of("cy")]);
    let answer = |room: &Room, result| Subscribed { room: room.to_string(), result };
    let joined = SubscribeResult::Joined {
        seq: Some(Seq(4712)),
        epoch: Some(epoch),
        recovered: true,
        scope: Some("1f0c9a5e7d3b2846".into()),
        resync: Some(ResyncReason::CursorTooOld),
        presence: Some(PresenceList { users: 2, members: here.to_vec() }),
    };
    let bare = SubscribeResult::Joined {
        seq: None,
        epoch: None,
        recovered: false,
        scope: None,
        resync: None,
        presence: None,
    };
    let [error, _] = refusals();
    let answers = [
        answer(&room, joined),
        answer(&meeting, bare),
        answer(&of("entity:site-7:task:t1"), SubscribeResult::Refused { error }),
    ];
    let presence = |members, joined, left, updated| {
        ServerFrame::Presence(PresenceDelta {
            room: &meeting,
            members,
            joined,
            left,
            updated,
            users: 2,
        })
    };
    let (data, from) = (raw(&json!({ "field": "title" })), of("ana"));
    let loss = Loss {
        types: vec!["*".into()],
        except: vec!["task".into()],
        fields: [("task".into(), vec!["budget".into()])].into(),
    };
    let event = "typing";
    [
        ServerFrame::Subscribed { id, rooms: &answers },
        ServerFrame::Subscribed { id: None, rooms: &[] },
        ServerFrame::Unsubscribed { id },
        ServerFrame::Unsubscribed { id: None },
        ServerFrame::Event { room: &meeting, event, data: Some(&data), from: Some(&from) },
        ServerFrame::Event { room: &meeting, event, data: None, from: None },
        presence(Some(&here), &here[..1], &left, &here[1..]),
        presence(None, &[], &[], &[]),
        ServerFrame::Resync { room: &room, reason: ResyncReason::EpochChanged },
        ServerFrame::Gone { room: &room, reason: GoneReason::ScopeChanged, loss: Some(&loss) },
        ServerFrame::Gone { room: &room, reason: GoneReason::AccessLost, loss: None },
    ]
    .iter()
    .map(encoded)
    .collect()
}

fn data(id: Option<&RequestId>, project: &ProjectId) -> Vec<String> {
    let verdicts = verdicts();
    let stored =
        verdicts.each_ref().map(|verdict| -> StoredVerdict { to_raw_value(verdict).unwrap() });
    let [opened, resolved] = conflicts();
    let entity = EntityKey { kind: of("task"), id: of("t1") };
    let fields = raw(&json!({ "budget": 7 }));
    let op_id = of("o1");
    let change = |kind, fields| {
        ServerFrame::Change(Change {
            project,
            seq: Seq(4712),
            entity: &entity,
            kind,
            version: Seq(4712),
            prev: Seq(4711),
            fields,
            actor: "ana",
            at: 1_764_000_000_000,
            op_id: &op_id,
        })
    };
    let full = change(ChangeKind::Update, Some(&*fields));
    let hidden = redact::change(encoded(&full).as_bytes(), &["budget".into()]).unwrap();
    let data = raw(&json!({ "task": "t1" }));
    let notification = |lane, data, link, category| {
        let (nid, seq, title, body) = ("n1", Seq(4712), "Done: roof", "by ana");
        let at = 1_764_000_000_000;
        ServerFrame::Notification(Notification {
            nid,
            project,
            seq,
            title,
            body,
            data,
            link,
            lane,
            category,
            at,
        })
    };
    let frames = [
        ServerFrame::Written { id, project, verdicts: &stored },
        ServerFrame::Written { id: None, project, verdicts: &[] },
        ServerFrame::Ok { id: id.unwrap() },
        full,
        change(ChangeKind::Delete, None),
        ServerFrame::Advance { project, seq: Seq(4713) },
        notification(Lane::High, Some(&data), Some("app://task/t1"), Some("done")),
        notification(Lane::Normal, None, None, None),
        ServerFrame::Conflict { project, conflict: &opened },
        ServerFrame::Conflict { project, conflict: &resolved },
        ServerFrame::Verdict { project, verdict: &verdicts[0] },
        ServerFrame::Verdict { project, verdict: &verdicts[1] },
    ];
    let hidden = String::from_utf8(hidden).unwrap();
    frames.iter().map(encoded).chain([hidden]).collect()
}

async fn problems() -> Vec<String> {
    let mut bodies = Vec::new();
    for refusal in refusals() {
        let body = Problem(refusal).into_response().into_body();
        bodies.push(String::from_utf8(to_bytes(body, 1 << 16).await.unwrap().to_vec()).unwrap());
    }
    bodies
}

fn states() -> Vec<String> {
    let fields = from_value(json!({ "done": true })).unwrap();
    [
        EntityState { version: Seq(9), deleted: true, fields: serde_json::Map::new() },
        EntityState { version: Seq(7), deleted: false, fields },
    ]
    .iter()
    .map(|state| serde_json::to_string(state).unwrap())
    .collect()
}

/// The types of frames there are.
fn kinds() -> Vec<String> {
    let mut generator = SchemaSettings::draft07().for_serialize().into_generator();
    let schema = ServerFrame::json_schema(&mut generator).to_value();
    let variants = schema["oneOf"].as_array().unwrap();
    variants
        .iter()
        .map(|variant| variant["properties"]["type"]["const"].as_str().unwrap().into())
        .collect()
}

#[tokio::test]
async fn the_checked_in_frames_are_those_the_hub_says() {
    let (id, project) = (RequestId::Number(5), of("site-7"));
    let frames = [session, rooms, data].map(|of| of(Some(&id), &project)).concat();
    for kind in kinds() {
        let start = format!(r#"{{"type":"{kind}","#);
        assert!(frames.iter().any(|frame| frame.starts_with(&start)), "no `{kind}` is here");
    }
    let all = [("frames", frames), ("problems", problems().await), ("states", states())];
    // One a line, so that a difference shows what it is about.
    let lists = all.map(|(name, list)| format!("\"{name}\": [\n{}\n]", list.join(",\n")));
    let text = format!("{{\n{}\n}}\n", lists.join(",\n"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/typescript/schema/frames.json");
    if std::env::var_os("SYNCLINE_WRITE").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == text,
        "frames.json is not current: run `SYNCLINE_WRITE=1 cargo test --lib golden`"
    );
}
