//! A model of an offline-first client: local rows, an outbox, a cursor, and a view of both together.
//!
//! It knows no transport: a test takes requests from it, brings it answers and changes, and loses any of
//! them as it likes. Everything it does follows from its seed and from what it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

/// Type and id of an entity.
pub(crate) type Key = (String, String);
pub(crate) type Fields = Map<String, Value>;

/// Types of every strategy; see [`super::schema::varied`].
const TYPES: [&str; 5] = ["task", "note", "form", "draft", "stock"];
/// Names that several devices give to entities of their own.
const SHARED: u32 = 4;
/// The most operations of one request.
const BATCH: usize = 8;

/// An entity as the device has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) version: u64,
    /// None if it is deleted.
    pub(crate) fields: Option<Fields>,
}

impl Row {
    /// Brings one change in; a hole in the entity's history fails the test.
    pub(crate) fn apply(row: Option<&Self>, change: &Value) -> Self {
        let version = change["version"].as_u64().unwrap();
        let known = row.map_or(0, |row| row.version);
        assert_eq!(change["prev"], known, "a change is missing before {change}");
        let patch = change["fields"].as_object().cloned();
        let fields = match change["kind"].as_str().unwrap() {
            "delete" => None,
            "create" => Some(patch.unwrap()),
            _ => {
                let mut fields = row.and_then(|row| row.fields.clone()).expect("it is alive");
                fields.extend(patch.unwrap());
                Some(fields)
            }
        };
        Self { version, fields }
    }
}

/// The key of a change's or a page's entity.
pub(crate) fn key_of(entity: &Value) -> Key {
    let text = |name: &str| entity[name].as_str().unwrap().to_owned();
    (text("type"), text("id"))
}

/// A conflict its user has to decide.
#[derive(Debug)]
struct Open {
    id: String,
    key: Key,
    version: u64,
    asked: bool,
}

/// One installation.
pub(crate) struct Device {
    pub(crate) user: String,
    pub(crate) client: String,
    /// By how much its clock is off, in milliseconds.
    pub(crate) skew: i64,
    pub(crate) random: SmallRng,
    /// Everything up to here is in its rows.
    pub(crate) cursor: u64,
    pub(crate) rows: BTreeMap<Key, Row>,
    outbox: VecDeque<Value>,
    /// Applied by the hub, and not seen coming back yet: position and operation.
    settling: Vec<(u64, Value)>,
    /// Its own names for entities, and what they stand for.
    pub(crate) names: HashMap<String, String>,
    open: Vec<Open>,
    made: usize,
    /// Each operation that was answered, with its verdict as it was sent.
    pub(crate) decided: Vec<(Value, String)>,
    verdicts: HashMap<String, String>,
}

impl Device {
    pub(crate) fn new(number: usize, users: usize, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        Self {
            user: format!("user-{}", number % users),
            client: format!("device-{number}"),
            skew: random.random_range(-5_000..5_000),
            random,
            cursor: 0,
            rows: BTreeMap::new(),
            outbox: VecDeque::new(),
            settling: Vec::new(),
            names: HashMap::new(),
            open: Vec::new(),
            made: 0,
            decided: Vec::new(),
            verdicts: HashMap::new(),
        }
    }

    /// Nothing is left to send or to decide.
    pub(crate) fn is_done(&self) -> bool {
        self.outbox.is_empty() && self.open.is_empty()
    }

    /// What is to be sent next: some of the outbox from its front, no group torn.
    pub(crate) fn batch(&mut self) -> Vec<Value> {
        let mut count = self.random.random_range(1..=BATCH).min(self.outbox.len());
        let group = |at: usize| self.outbox[at].get("group");
        while count > 0
            && count < self.outbox.len()
            && group(count).is_some()
            && group(count) == group(count - 1)
        {
            count += 1;
        }
        self.outbox.iter().take(count).cloned().collect()
    }

    /// Operations that were decided before, to be sent once more; groups stay as they were.
    pub(crate) fn old_batch(&mut self) -> Vec<Value> {
        let Some((op, _)) = self.decided.choose(&mut self.random) else { return Vec::new() };
        let of_group = |other: &&Value| match op.get("group") {
            Some(group) => other.get("group") == Some(group),
            None => other["op_id"] == op["op_id"],
        };
        self.decided.iter().map(|(op, _)| op).filter(of_group).cloned().collect()
    }

    /// Takes the verdicts on operations it sent. One it knows already must be the same to the byte.
    pub(crate) fn answered(&mut self, ops: &[Value], verdicts: &[String]) {
        assert_eq!(ops.len(), verdicts.len(), "one verdict an operation");
        for (op, text) in ops.iter().zip(verdicts) {
            let op_id = op["op_id"].as_str().unwrap();
            if let Some(known) = self.verdicts.get(op_id) {
                assert_eq!(known, text, "a retry was answered otherwise");
                continue;
            }
            self.verdicts.insert(op_id.to_owned(), text.clone());
            let at = self.outbox.iter().position(|other| other["op_id"] == op_id);
            self.outbox.remove(at.expect("what is not decided waits in the outbox"));
            let verdict: Value = serde_json::from_str(text).unwrap();
            assert_eq!(verdict["op_id"], op_id);
            self.learn(op, &verdict);
            self.decided.push((op.clone(), text.clone()));
        }
    }

    fn learn(&mut self, op: &Value, verdict: &Value) {
        if let Some(local) = verdict["local_id"].as_str() {
            let id = verdict["id"].as_str().unwrap().to_owned();
            let known = self.names.insert(local.to_owned(), id.clone());
            assert!(known.is_none_or(|known| known == id), "{local} changed its id");
        }
        if let Some(seq) = verdict["seq"].as_u64().filter(|seq| *seq > self.cursor) {
            let mut op = op.clone();
            if let Some(fields) = verdict.get("fields") {
                op["fields"] = fields.clone();
            }
            self.settling.push((seq, op));
        }
        let conflict = verdict["conflict"].as_str();
        let version = || verdict["current"]["version"].as_u64().unwrap_or(0);
        match (op["kind"].as_str(), verdict["outcome"].as_str(), conflict) {
            (Some("resolve"), Some("conflict"), Some(id)) => {
                assert_eq!(verdict["code"], "moved", "{verdict}");
                let open = self.open.iter_mut().find(|open| open.id == id).unwrap();
                (open.version, open.asked) = (version(), false);
            }
            (Some("resolve"), Some("rejected"), _) => {
                assert_eq!(verdict["code"], "group_failed", "{verdict} to {op}");
                let open = self.open.iter_mut().find(|open| op["conflict"] == open.id).unwrap();
                open.asked = false;
            }
            (Some("resolve"), outcome, _) => {
                assert!(matches!(outcome, Some("applied" | "noop")), "{verdict} to {op}");
                self.open.retain(|open| op["conflict"] != open.id);
            }
            (_, Some("conflict"), Some(id)) => {
                let id = id.to_owned();
                let key =
                    (op["type"].as_str().unwrap().into(), verdict["id"].as_str().unwrap().into());
                self.open.push(Open { id, key, version: version(), asked: false });
            }
            _ => {}
        }
    }

    /// Takes one change of the stream or of the log.
    pub(crate) fn take_change(&mut self, change: &Value) {
        let (seq, key) = (change["seq"].as_u64().unwrap(), key_of(&change["entity"]));
        assert_eq!(seq, self.cursor + 1, "{}: the stream has a hole at {change}", self.client);
        self.cursor = seq;
        let row = self.rows.get(&key);
        if row.is_none_or(|row| row.version < seq) {
            let row = Row::apply(row, change);
            self.rows.insert(key, row);
        }
        self.settle();
    }

    /// Takes the rows of one page of a delta. The cursor moves with the last page only: the log between
    /// does not fit rows that moved ahead of the page.
    pub(crate) fn take_page(&mut self, page: &Value) {
        for entity in page["changes"].as_array().unwrap() {
            let version = entity["version"].as_u64().unwrap();
            let key = key_of(&entity["entity"]);
            if self.rows.get(&key).is_none_or(|row| row.version < version) {
                let deleted = entity["deleted"] == true;
                let fields = (!deleted).then(|| entity["fields"].as_object().unwrap().clone());
                self.rows.insert(key, Row { version, fields });
            }
        }
        if page["more"] == false {
            self.cursor = self.cursor.max(page["next"].as_u64().unwrap());
            self.settle();
        }
    }

    fn settle(&mut self) {
        let cursor = self.cursor;
        self.settling.retain(|(seq, _)| *seq > cursor);
    }

    /// The entity a key stands for, once it has an id.
    fn real(&self, (kind, id): Key) -> Key {
        let id = self.names.get(&id).cloned().unwrap_or(id);
        (kind, id)
    }

    /// What the user sees: the rows with the operations that are on their way on top.
    fn view(&self) -> BTreeMap<Key, Fields> {
        let alive = |(key, row): (&Key, &Row)| Some((key.clone(), row.fields.clone()?));
        let mut view: BTreeMap<_, _> = self.rows.iter().filter_map(alive).collect();
        for op in self.settling.iter().map(|(_, op)| op).chain(&self.outbox) {
            let key = self.real(key_of(op));
            let fields = op.get("fields").and_then(Value::as_object);
            match (op["kind"].as_str().unwrap(), fields) {
                ("delete", _) => drop(view.remove(&key)),
                ("create", Some(fields)) => view.entry(key).or_default().extend(fields.clone()),
                ("update", Some(fields)) => {
                    if let Some(row) = view.get_mut(&key) {
                        row.extend(fields.clone());
                    }
                }
                _ => {}
            }
        }
        view
    }

    /// The user does something: one edit, a few that belong together, or a decision.
    pub(crate) fn act(&mut self, now: i64) {
        if self.outbox.len() <= 30 && self.random.random_ratio(1, 16) {
            return self.quarrel(now);
        }
        if self.decide() || self.outbox.len() > 30 {
            return;
        }
        if !self.random.random_ratio(1, 8) {
            let op = self.edit(now);
            return self.outbox.push_back(op);
        }
        let group = format!("{}-group-{}", self.client, self.made);
        for _ in 0..self.random.random_range(2..=3) {
            let mut op = self.edit(now);
            op["group"] = json!(group);
            self.outbox.push_back(op);
        }
    }

    /// A group that cannot take effect as a whole although its last member could alone: an edit of what is
    /// deleted, or a decision on what is edited, in the same group.
    fn quarrel(&mut self, now: i64) {
        let view = self.view();
        let undecided = self.open.iter().find(|open| !open.asked).map(|open| open.key.clone());
        let decided = undecided.filter(|key| view.contains_key(key));
        let alive = decided.clone().or_else(|| view.keys().choose(&mut self.random).cloned());
        let Some(key) = alive else { return };
        let group = json!(format!("{}-group-{}", self.client, self.made));
        let first = if decided.is_some() { "update" } else { "delete" };
        let mut ops = vec![self.op_on(&key, first, &view, now)];
        ops.push(match decided {
            Some(_) => self.decision().expect("it is not decided"),
            None => self.op_on(&key, "update", &view, now),
        });
        for mut op in ops {
            op["group"] = group.clone();
            self.outbox.push_back(op);
        }
    }

    /// Decides an open conflict that was not decided yet; whether there was one.
    pub(crate) fn decide(&mut self) -> bool {
        let decision = self.decision();
        let decides = decision.is_some();
        self.outbox.extend(decision);
        decides
    }

    fn decision(&mut self) -> Option<Value> {
        let open = self.open.iter_mut().find(|open| !open.asked)?;
        open.asked = true;
        self.made += 1;
        let choose = if self.random.random() { "client" } else { "server" };
        Some(json!({
            "op_id": format!("{}-{}", self.client, self.made), "kind": "resolve",
            "type": open.key.0, "id": open.key.1, "conflict": open.id,
            "expected_version": open.version, "choose": choose,
        }))
    }

    fn edit(&mut self, now: i64) -> Value {
        let view = self.view();
        let alive = view.keys().choose(&mut self.random).cloned();
        let (key, kind) = match (alive, self.random.random_range(0..100)) {
            (Some(key), 0..60) => (key, "update"),
            (Some(key), 60..70) => (key, "delete"),
            _ => {
                self.made += 1;
                (self.new_key(), "create")
            }
        };
        self.op_on(&key, kind, &view, now)
    }

    fn op_on(&mut self, key: &Key, kind: &str, view: &BTreeMap<Key, Fields>, now: i64) -> Value {
        self.made += 1;
        let base = self.rows.get(key).map_or(0, |row| row.version);
        let id = self.named(key);
        let mut op = json!({
            "op_id": format!("{}-{}", self.client, self.made), "kind": kind, "type": key.0, "id": id,
            "base": base, "edited_at": now + self.skew,
        });
        if self.random.random_ratio(1, 6) {
            let priority = ["critical", "high"].choose(&mut self.random);
            op["priority"] = json!(priority);
        }
        if kind != "delete" {
            let seen = view.get(key).filter(|_| kind == "update");
            let (fields, was) = self.values(key, seen, view);
            op["fields"] = Value::Object(fields);
            // A counter and a set are merged only with it; whoever leaves it out sets them.
            if kind == "update" {
                op["was"] = Value::Object(was);
            }
        }
        op
    }

    /// The device's own name for an entity while it has no other, and sometimes afterwards.
    fn named(&mut self, key: &Key) -> String {
        let local = self.names.iter().find(|(_, id)| **id == key.1).map(|(local, _)| local.clone());
        local.filter(|_| self.random.random()).unwrap_or_else(|| key.1.clone())
    }

    fn new_key(&mut self) -> Key {
        let kind = (*TYPES.choose(&mut self.random).unwrap()).to_owned();
        let id = match self.random.random_range(0..3) {
            0 => format!("shared-{}", self.random.random_range(0..SHARED)),
            1 => format!("local:{}", self.made),
            _ => format!("{}-{}", self.client, self.made),
        };
        (kind, id)
    }

    /// New values for some fields, and what was there.
    fn values(
        &mut self,
        key: &Key,
        seen: Option<&Fields>,
        view: &BTreeMap<Key, Fields>,
    ) -> (Fields, Fields) {
        let was = |name: &str| seen.and_then(|fields| fields.get(name)).cloned();
        let mut fields = Fields::new();
        let task = key.0 == "task";
        let plain: &[&str] = if task { &["title", "color"] } else { &["text", "n"] };
        for name in plain {
            if self.random.random_ratio(1, 2) {
                fields.insert((*name).to_owned(), json!(self.random.random_range(0..1000)));
            }
        }
        if task && (seen.is_none() || self.random.random_ratio(1, 2)) {
            let hours = was("hours").and_then(|hours| hours.as_i64()).unwrap_or(0);
            fields.insert("hours".into(), json!(hours + self.random.random_range(-3..=9)));
        }
        if task && (seen.is_none() || self.random.random_ratio(1, 3)) {
            let mut tags: BTreeSet<u64> =
                was("tags").map(|tags| serde_json::from_value(tags).unwrap()).unwrap_or_default();
            let tag = self.random.random_range(0..12);
            if !tags.remove(&tag) {
                tags.insert(tag);
            }
            fields.insert("tags".into(), json!(tags));
        }
        if task && self.random.random_ratio(1, 12) {
            fields.insert("approval".into(), json!(self.random.random_range(0..3)));
        }
        if task && self.random.random_ratio(1, 8) {
            let tasks = view.keys().filter(|other| other.0 == "task");
            if let Some(parent) = tasks.choose(&mut self.random).cloned() {
                fields.insert("parent".into(), json!(self.named(&parent)));
            }
        }
        if fields.is_empty() {
            fields.insert(plain[0].into(), json!(self.random.random_range(0..1000)));
        }
        let before = fields.keys().filter_map(|name| Some((name.clone(), was(name)?))).collect();
        (fields, before)
    }
}
