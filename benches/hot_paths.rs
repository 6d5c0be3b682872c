//! CPU of what is done for every operation and every change, without sockets and stores:
//!
//!     cargo bench
//!
//! What it costs with them is measured by `load-tests`.

#![allow(clippy::unwrap_used, reason = "what is measured is fixed")]

use std::sync::Arc;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use serde_json::json;
use syncline::auth::Roles;
use syncline::config::{self, Config};
use syncline::fanout::EncodedChange;
use syncline::id::{EntityKey, Epoch, ProjectId, Seq};
use syncline::protocol::client::{self, ClientFrame};
use syncline::protocol::conflict::Merge;
use syncline::protocol::frame::{Decoder, FrameError, Incoming};
use syncline::protocol::op::{ChangeKind, Op, Outcome};
use syncline::store::{Actor, EntityRow, LogEntry, PendingOp, Snapshot, Stamp, Stamps};
use syncline::sync::notify::Notices;
use syncline::sync::plan::plan;
use syncline::sync::rules::Rules;

/// Operations in a group, about as many as a busy lane commits together.
const GROUP: usize = 256;

fn main() {
    divan::main();
}

/// A client's `write` as it comes from the socket: masked, cut, read, its operations read.
#[divan::bench(args = [1, 50])]
fn decode_a_write(bencher: Bencher<'_, '_>, ops: usize) {
    let ops_: Vec<_> = (0..ops).map(|n| op(n, &json!({ "title": "inspect", "n": n }))).collect();
    let text = json!({ "type": "write", "id": 1, "project": "p", "ops": ops_ }).to_string();
    let wire = masked(text.as_bytes());
    bencher.counter(ItemsCount::new(ops)).with_inputs(|| wire.clone()).bench_local_refs(|wire| {
        let mut decoder = Decoder::default();
        decoder.feed(
            wire,
            || usize::MAX,
            |message| {
                let Incoming::Text(text) = message else { unreachable!("it is a text") };
                let Ok(request) = client::decode(text) else { unreachable!("it is a request") };
                let ClientFrame::Write(write) = request.frame else {
                    unreachable!("it is a write")
                };
                for raw in &write.ops {
                    black_box(client::Write::op(raw)).unwrap();
                }
                Ok::<_, FrameError>(())
            },
        )
    });
}

/// How the operations of a group meet what is there.
#[derive(Debug, Clone, Copy)]
enum Meeting {
    /// Nobody else has changed the entities.
    Alone,
    /// Somebody else has changed the same fields, and the server wins.
    Conflict,
    /// Somebody else has counted, too.
    Merge,
}

#[divan::bench(args = [Meeting::Alone, Meeting::Conflict, Meeting::Merge])]
fn plan_a_group(bencher: Bencher<'_, '_>, meeting: Meeting) {
    let (rules, snapshot) = (rules(), snapshot(GROUP));
    let change = match meeting {
        Meeting::Merge => json!({ "count": 5 }),
        Meeting::Alone | Meeting::Conflict => json!({ "title": "new" }),
    };
    let ops: Vec<PendingOp> = (0..GROUP)
        .map(|n| {
            let mut op: Op = serde_json::from_value(op(n, &change)).unwrap();
            op.base = if matches!(meeting, Meeting::Alone) { snapshot.head } else { Seq(1) };
            if matches!(meeting, Meeting::Merge) {
                op.was.insert("count".into(), json!(2));
            }
            PendingOp::new(op, actor("ana"), [0; 32])
        })
        .collect();
    let outcome = match meeting {
        Meeting::Alone => Outcome::Applied,
        Meeting::Conflict => Outcome::Superseded,
        Meeting::Merge => Outcome::Merged,
    };
    let decided = plan(&snapshot, &ops, 1_000, &rules).answers;
    let said = format!(r#""outcome":"{}""#, outcome.as_str());
    assert!(decided.iter().all(|answer| answer.verdict().get().contains(&said)), "{decided:?}");
    bencher
        .counter(ItemsCount::new(GROUP))
        .bench_local(|| plan(black_box(&snapshot), black_box(&ops), 1_000, &rules));
}

/// A change becomes one frame, which every reader's queue gets a share of.
#[divan::bench(args = [0, 1_000])]
fn encode_a_change_and_share_it(bencher: Bencher<'_, '_>, readers: usize) {
    let (project, entry) = (project(), entry());
    let role = editor();
    bencher.bench_local(|| {
        let change = Arc::new(EncodedChange::new(black_box(&project), black_box(&entry)));
        let shares: Vec<Bytes> =
            (0..readers).filter_map(|_| change.seen_by(&role).cloned()).collect();
        (change, shares)
    });
}

fn project() -> ProjectId {
    "p".parse().unwrap()
}

fn task(n: usize) -> EntityKey {
    EntityKey { kind: "task".parse().unwrap(), id: format!("t{n}").parse().unwrap() }
}

fn actor(user: &str) -> Actor {
    Actor { user: user.into(), client: "0193c5a0-phone".into() }
}

fn op(n: usize, fields: &serde_json::Value) -> serde_json::Value {
    let op_id = format!("0193c5a0-1111-7000-8000-{n:012}");
    json!({ "op_id": op_id, "kind": "update", "type": "task", "id": format!("t{n}"), "base": 1, "fields": fields })
}

/// A frame as a client sends it.
fn masked(payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x81];
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(0x80 | payload.len() as u8),
        Ok(middle) => {
            frame.push(0x80 | 126);
            frame.extend(middle.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn rules() -> Rules {
    let mut config = Config::default();
    let count = config::Field { merge: Some(Merge::Counter), ..config::Field::default() };
    let fields = [("count".to_owned(), count)].into();
    config.entities.0.insert("task".into(), config::Entity { fields, ..config::Entity::default() });
    let roles = Roles::compile(&config.roles).unwrap();
    Rules::new(&config, Notices::new(&config.push, &roles, Arc::default()))
}

/// Entities that Bo changed last.
fn snapshot(entities: usize) -> Snapshot {
    let head = Seq(entities as u64 + 1);
    let row = |n: usize| {
        let fields = json!({ "title": "old", "count": 3, "done": false, "note": "x".repeat(100) });
        let bytes = fields.to_string().len();
        let version = Seq(n as u64 + 2);
        EntityRow {
            version,
            deleted: false,
            fields: serde_json::from_value(fields).unwrap(),
            buried: Default::default(),
            stamps: Stamps::whole(Stamp::new(version, &actor("bo"), "o1", 500)),
            source_versions: Default::default(),
            bytes,
        }
    };
    Snapshot {
        project: project(),
        head,
        epoch: Epoch(uuid::Uuid::nil()),
        verdicts: Default::default(),
        entities: (0..entities).map(|n| (task(n), row(n))).collect(),
        mappings: Default::default(),
        conflicts: Default::default(),
        members: Default::default(),
    }
}

fn entry() -> LogEntry {
    let fields = json!({ "title": "inspect the anchors of section 7", "n": 7 });
    LogEntry {
        seq: Seq(8),
        entity: task(1),
        kind: ChangeKind::Update,
        prev: Seq(7),
        fields: Some(serde_json::value::to_raw_value(&fields).unwrap()),
        actor: "ana".into(),
        client: "phone".into(),
        op_id: "o1".parse().unwrap(),
        at: 1_000,
    }
}

fn editor() -> Arc<syncline::auth::Role> {
    let roles = Roles::compile(&config::Roles::default()).unwrap();
    roles.get(&"editor".parse().unwrap()).unwrap().clone()
}
