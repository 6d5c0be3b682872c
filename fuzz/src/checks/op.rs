//! Deciding operations: any sequence of them leaves a dense log that tells how each entity came to its
//! state, answers each operation once, and answers a repeated one the same.

use std::collections::HashMap;

use arbitrary::Unstructured;
use serde_json::value::RawValue;
use syncline::auth::Roles;
use syncline::config::{self, Config};
use syncline::id::{EntityKey, Epoch, Seq};
use syncline::protocol::client::Write;
use syncline::protocol::conflict::Merge;
use syncline::protocol::op::{ChangeKind, Fields, Verdict};
use syncline::store::{
    Actor, Answer, Effects, EntityRow, PendingOp, Recorded, Snapshot, SourceVersion,
};
use syncline::sync::notify::Notices;
use syncline::sync::rules::Rules;
use syncline::sync::{plan, submission};

use super::{choose, number};

const VALUES: [&str; 16] = [
    "1",
    "null",
    "true",
    "\"text\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude80\"",
    "9007199254740991",
    "9007199254740993",
    "-9007199254740991",
    "0.1",
    "-0",
    "1.7976931348623157e308",
    "5e-324",
    "123456789.12345678901234567890",
    "[1,{\"a\":[]}]",
    "{\"\":{\"a\":1,\"b\":null}}",
];

/// Input: groups of operations, each read from its text, some sent by backends, some sent again.
pub(super) fn check(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut world = World::new();
    let mut sent: Vec<PendingOp> = Vec::new();
    while !input.is_empty() {
        let mut group = Vec::new();
        for _ in 0..number(&mut input, 1..=4) {
            if number(&mut input, 0..=7) == 0 && !sent.is_empty() {
                group.push(input.choose(&sent).unwrap_or(&sent[0]).clone());
            } else {
                group.extend(pending(&mut input));
            }
        }
        // A group of what is decided together is part of what was sent together.
        group.iter_mut().take(1).for_each(|op| op.joined = false);
        world.run(&group);
        sent.extend(group.into_iter().map(|op| PendingOp { joined: false, ..op }));
    }
    world.replays_all(&sent);
}

/// An operation as a client or a backend sends it, if its text is one.
fn pending(input: &mut Unstructured<'_>) -> Option<PendingOp> {
    let text = text(input);
    let op = Write::op(&RawValue::from_string(text).ok()?).ok()?;
    let client = choose(input, &["a", "b", "c"]);
    let source = (number(input, 0..=4) == 0)
        .then(|| SourceVersion { source: "erp".into(), version: number(input, 0..=3).into() });
    let actor = Actor { user: format!("user of {client}"), client: client.into() };
    let hash = submission::hash(&op);
    Some(PendingOp {
        upsert: source.is_some(),
        source,
        joined: number(input, 0..=3) == 0,
        ..PendingOp::new(op, actor, hash)
    })
}

fn text(input: &mut Unstructured<'_>) -> String {
    let kind = choose(input, &["create", "update", "delete"]);
    let (op_id, id) = (number(input, 0..=40), number(input, 0..=2));
    let base = match number(input, 0..=9) {
        9 => input.arbitrary::<u64>().unwrap_or_default() >> 11,
        n => u64::from(n),
    };
    let (fields, was) = (members(input), members(input));
    let notify = match number(input, 0..=3) {
        0 => r#","notify":{"users":["user of a","bo","bo"],"title":"t","lane":"critical"}"#,
        _ => "",
    };
    format!(
        r#"{{"op_id":"o{op_id}","kind":"{kind}","type":"task","id":"t{id}","base":{base},"fields":{{{fields}}},"was":{{{was}}}{notify}}}"#,
    )
}

/// Some fields with values.
fn members(input: &mut Unstructured<'_>) -> String {
    let mut fields = Vec::new();
    for name in ["x", "y"] {
        match number(input, 0..=4) {
            0 => {}
            1 => {
                // Any text at all: most make the operation unreadable, some find new values.
                let bytes = input.bytes(input.len().min(12)).unwrap_or_default();
                fields.push(format!("\"{name}\":{}", String::from_utf8_lossy(bytes)));
            }
            _ => fields.push(format!("\"{name}\":{}", choose(input, &VALUES))),
        }
    }
    fields.join(",")
}

/// The rules of a task whose `x` is a counter and whose `y` is a set.
fn rules() -> Rules {
    let field = |merge| config::Field { merge: Some(merge), ..config::Field::default() };
    let fields = [("x", Merge::Counter), ("y", Merge::Set)];
    let fields = fields.map(|(name, merge)| (name.to_owned(), field(merge))).into();
    let mut config = Config::default();
    config.entities.0.insert("task".into(), config::Entity { fields, ..Default::default() });
    let roles = Roles::compile(&config.roles).expect("the defaults are valid");
    let notices = Notices::new(&config.push, &roles, Default::default());
    Rules::new(&config, notices)
}

/// A store in memory.
struct World {
    snapshot: Snapshot,
    /// Entities as the log alone tells them.
    told: HashMap<EntityKey, (Seq, Option<Fields>)>,
    rules: Rules,
}

impl World {
    fn new() -> Self {
        Self {
            snapshot: Snapshot {
                project: "p".parse().unwrap(),
                head: Seq::ZERO,
                epoch: Epoch(uuid::Uuid::nil()),
                verdicts: HashMap::new(),
                entities: HashMap::new(),
                mappings: HashMap::new(),
                conflicts: HashMap::new(),
                members: HashMap::new(),
            },
            told: HashMap::new(),
            rules: rules(),
        }
    }

    fn run(&mut self, ops: &[PendingOp]) {
        let effects = plan::plan(&self.snapshot, ops, 1000, &self.rules);
        assert_eq!(effects.answers.len(), ops.len(), "one answer per operation");
        self.read_log(&effects);
        self.read_answers(ops, &effects);
        for notification in &effects.notifications {
            let entry = effects.entries.iter().find(|entry| entry.seq == notification.seq);
            let entry = entry.expect("a notification belongs to a change");
            let told = notification.audience.users.iter().any(|user| user.as_str() == entry.actor);
            assert!(
                !told && notification.audience.actor == entry.actor,
                "nobody hears of their own act"
            );
        }
        for (key, row) in effects.entities {
            self.check_row(&key, &row);
            let before = self.snapshot.entities.get(&key);
            for (source, version) in before.iter().flat_map(|row| &row.source_versions) {
                assert!(row.source_versions[source] >= *version, "{source} went back");
            }
            self.snapshot.entities.insert(key, row);
        }
    }

    fn read_log(&mut self, effects: &Effects) {
        for entry in &effects.entries {
            assert_eq!(entry.seq, self.snapshot.head.next(), "the log is dense");
            self.snapshot.head = entry.seq;
            let told = self.told.entry(entry.entity.clone()).or_default();
            assert_eq!(entry.prev, told.0, "a change names the one before");
            told.0 = entry.seq;
            let patch: Option<Fields> =
                entry.fields.as_ref().map(|raw| serde_json::from_str(raw.get()).unwrap());
            match entry.kind {
                ChangeKind::Create => told.1 = patch,
                ChangeKind::Update => {
                    told.1.as_mut().expect("an entity to update").extend(patch.unwrap());
                }
                ChangeKind::Delete => told.1 = patch,
            }
        }
    }

    fn read_answers(&mut self, ops: &[PendingOp], effects: &Effects) {
        let mut applied = 0;
        for (op, answer) in ops.iter().zip(&effects.answers) {
            let verdict: Verdict = serde_json::from_str(answer.verdict().get()).unwrap();
            assert_eq!(verdict.op_id, op.op.op_id);
            assert_eq!(verdict.code.is_some(), verdict.message.is_some());
            match answer {
                Answer::New(given) => {
                    assert_eq!(verdict.outcome, given.outcome);
                    applied += usize::from(verdict.seq.is_some());
                    let recorded = Recorded {
                        payload_hash: op.payload_hash,
                        user: op.actor.user.clone(),
                        verdict: given.verdict.clone(),
                        outcome: given.outcome,
                        kept: given.outcome == syncline::protocol::op::Outcome::Rejected,
                    };
                    let before = self.snapshot.verdicts.insert(op.op.op_id.clone(), recorded);
                    assert!(before.is_none(), "a second verdict");
                }
                Answer::Replayed(text) => self.check_replay(op, text),
            }
        }
        assert_eq!(applied, effects.entries.len(), "one change per applied operation");
    }

    fn check_replay(&self, op: &PendingOp, text: &RawValue) {
        let first = &self.snapshot.verdicts[&op.op.op_id];
        if first.payload_hash == op.payload_hash && first.user == op.actor.user {
            assert_eq!(first.verdict.get(), text.get(), "the same verdict for ever");
        } else {
            assert!(text.get().contains("op_id_reused"), "{text}");
        }
    }

    fn check_row(&self, key: &EntityKey, row: &EntityRow) {
        let (seq, fields) = &self.told[key];
        assert_eq!(row.version, *seq);
        assert_eq!(row.deleted, fields.is_none());
        assert_eq!(
            &row.fields,
            fields.as_ref().unwrap_or(&Fields::new()),
            "the log tells the state"
        );
        let text = serde_json::to_string(&row.fields).unwrap();
        let read: Fields = serde_json::from_str(&text).unwrap();
        assert_eq!(read, row.fields, "what is stored is what is read");
    }

    /// Sent again all at once, as after a long time offline, nothing happens twice.
    fn replays_all(&mut self, sent: &[PendingOp]) {
        let effects = plan::plan(&self.snapshot, sent, 2000, &self.rules);
        assert!(effects.entries.is_empty() && effects.entities.is_empty());
        for (op, answer) in sent.iter().zip(&effects.answers) {
            let Answer::Replayed(text) = answer else { panic!("decided twice: {op:?}") };
            self.check_replay(op, text);
        }
    }
}
