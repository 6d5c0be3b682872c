//! What must be true once everyone has sent everything: an independent reading of the log against the
//! operations, their verdicts and the conflict log. It shares no code with the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};
use syncline::protocol::conflict::Conflict;
use syncline::store::LogEntry;

use super::device::{Device, Fields, Key, Row, key_of};

/// A log entry as it stands on the wire.
pub(crate) fn change(entry: &LogEntry) -> Value {
    json!({
        "seq": entry.seq, "version": entry.seq, "prev": entry.prev, "kind": entry.kind,
        "entity": { "type": entry.entity.kind, "id": entry.entity.id },
        "fields": entry.fields, "op_id": entry.op_id, "client": entry.client,
    })
}

/// One operation and everything said about it.
struct Told<'a> {
    op: Value,
    client: &'a str,
    verdict: Value,
}

impl Told<'_> {
    fn is(&self, kind: &str) -> bool {
        self.op["kind"] == kind
    }

    fn key(&self) -> Key {
        (self.op["type"].as_str().unwrap().into(), self.verdict["id"].as_str().unwrap().into())
    }
}

/// One change of an entity.
struct Event {
    seq: u64,
    client: String,
    /// The changed fields, or all there are after it.
    patch: Fields,
    /// It is about the entity as a whole: a create or a delete.
    whole: bool,
    after: Row,
}

/// The histories of all entities.
struct Histories(BTreeMap<Key, Vec<Event>>);

impl Histories {
    fn read(log: &[LogEntry]) -> Self {
        let mut histories: BTreeMap<Key, Vec<Event>> = BTreeMap::new();
        for (at, entry) in log.iter().enumerate() {
            assert_eq!(entry.seq.0, at as u64 + 1, "the log is not dense");
            let change = change(entry);
            let events = histories.entry(key_of(&change["entity"])).or_default();
            events.push(Event {
                seq: entry.seq.0,
                client: entry.client.clone(),
                patch: change["fields"].as_object().cloned().unwrap_or_default(),
                whole: change["kind"] != "update",
                after: Row::apply(events.last().map(|event| &event.after), &change),
            });
        }
        Self(histories)
    }

    /// An entity's changes up to a version.
    fn upto(&self, key: &Key, version: u64) -> &[Event] {
        let events = self.0.get(key).map_or(&[][..], Vec::as_slice);
        &events[..events.partition_point(|event| event.seq <= version)]
    }

    /// Whether somebody else made the entity of an update anew, unseen and without a field it remembers.
    fn replaced(&self, told: &Told<'_>, version: u64) -> bool {
        let events = self.upto(&told.key(), version);
        let row = events.last().and_then(|event| event.after.fields.as_ref());
        let made = events.iter().rev().find(|event| event.whole);
        let (Some(row), Some(made)) = (row, made) else { return false };
        let remembered = told.op["was"].as_object().into_iter().flatten();
        let lost = |(name, was): (&String, &Value)| {
            !was.is_null() && told.op["fields"].get(name).is_some() && !row.contains_key(name)
        };
        let unseen = made.seq > told.op["base"].as_u64().unwrap() && made.client != told.client;
        told.is("update") && unseen && remembered.into_iter().any(lost)
    }

    /// The fields of an operation that are in conflict with an entity as it was at a version.
    fn in_conflict(&self, told: &Told<'_>, version: u64) -> BTreeSet<String> {
        let events = self.upto(&told.key(), version);
        let Some(row) = events.last().and_then(|event| event.after.fields.as_ref()) else {
            return BTreeSet::new();
        };
        if self.replaced(told, version) {
            return told.op["fields"].as_object().unwrap().keys().cloned().collect();
        }
        let base = told.op["base"].as_u64().unwrap();
        let foreign = |name: &String| {
            let last = events.iter().rev().find(|e| e.whole || e.patch.contains_key(name)).unwrap();
            last.seq > base && last.client != told.client
        };
        let differs = |(name, value): &(&String, &Value)| {
            let server = row.get(*name);
            let was = told.op["was"].get(*name);
            server.is_some_and(|server| server != *value && was.is_none_or(|was| was != server))
        };
        let fields = told.op["fields"].as_object().into_iter().flatten().filter(differs);
        fields.map(|(name, _)| name.clone()).filter(foreign).collect()
    }

    /// Whether the latest edit of anything in an entity is another client's, and unseen.
    fn foreign_change(&self, told: &Told<'_>, version: u64) -> bool {
        let base = told.op["base"].as_u64().unwrap();
        let events = self.upto(&told.key(), version);
        let whole = events.iter().rposition(|event| event.whole).unwrap_or(0);
        let mut last: BTreeMap<&str, &Event> = BTreeMap::new();
        for event in &events[whole.min(events.len())..] {
            let names = event.patch.keys().filter(|_| !event.whole).map(String::as_str);
            last.extend(names.chain(event.whole.then_some("")).map(|name| (name, event)));
        }
        last.values().any(|event| event.seq > base && event.client != told.client)
    }
}

/// Checks everything; returns the state the log leads to.
pub(crate) fn audit(
    devices: &[Device],
    log: &[LogEntry],
    conflicts: &[Conflict],
) -> BTreeMap<Key, Row> {
    let histories = Histories::read(log);
    let told = told(devices);
    let conflicts: HashMap<_, _> = conflicts.iter().map(|c| (c.id.to_string(), c)).collect();
    let by_op: HashMap<&str, &LogEntry> = log.iter().map(|e| (e.op_id.as_str(), e)).collect();
    assert_eq!(by_op.len(), log.len(), "an operation is in the log twice");
    let mut written = 0;
    for (op_id, told) in &told {
        let entry = by_op.get(op_id.as_str());
        assert_eq!(
            entry.map(|entry| entry.seq.0),
            told.verdict["seq"].as_u64(),
            "acknowledged and not in the log, or the other way round: {}",
            told.verdict
        );
        written += usize::from(entry.is_some());
        let logged = logged_conflict(told, &conflicts);
        if !told.is("resolve") {
            detected(told, entry, logged, &histories);
        }
        if let Some(entry) = entry {
            merged(told, entry, &histories);
        }
    }
    assert_eq!(written, log.len(), "the log has operations nobody was told of");
    groups(&told);
    in_order(devices, &by_op);
    let last = |events: Vec<Event>| events.into_iter().next_back().unwrap().after;
    histories.0.into_iter().map(|(key, events)| (key, last(events))).collect()
}

/// All operations by id, with real ids in the place of local ones.
fn told(devices: &[Device]) -> BTreeMap<String, Told<'_>> {
    let mut told = BTreeMap::new();
    for device in devices {
        for (op, verdict) in &device.decided {
            let mut op = op.clone();
            for values in ["fields", "was"] {
                if let Some(parent) = op.get_mut(values).and_then(|v| v.get_mut("parent"))
                    && let Some(id) = device.names.get(parent.as_str().unwrap())
                {
                    *parent = json!(id);
                }
            }
            let op_id = op["op_id"].as_str().unwrap().to_owned();
            let verdict = serde_json::from_str(verdict).unwrap();
            let known = told.insert(op_id, Told { op, client: &device.client, verdict });
            assert!(known.is_none(), "decided twice");
        }
    }
    told
}

/// The entry of the conflict log that a verdict names; one that lost must name one.
fn logged_conflict<'c>(
    told: &Told<'_>,
    conflicts: &HashMap<String, &'c Conflict>,
) -> Option<&'c Conflict> {
    let outcome = told.verdict["outcome"].as_str().unwrap();
    let logged = told.verdict["conflict"].as_str().map(|id| {
        *conflicts.get(id).unwrap_or_else(|| panic!("not in the conflict log: {}", told.verdict))
    });
    if matches!(outcome, "superseded" | "conflict") {
        assert!(logged.is_some(), "lost without a trace: {}", told.verdict);
    }
    if outcome == "rejected" {
        // What a client's own edits can lead to; a fault of the store is none of them.
        let known = ["not_found", "deleted", "unknown_local_id", "group_failed"];
        assert!(known.iter().any(|code| told.verdict["code"] == *code), "{}", told.verdict);
    }
    if let Some(logged) = logged.filter(|_| !told.is("resolve")) {
        assert_eq!(told.op["op_id"], logged.op_id.as_str());
    }
    logged
}

/// A conflict was found exactly where there was one.
fn detected(
    told: &Told<'_>,
    entry: Option<&&LogEntry>,
    logged: Option<&Conflict>,
    histories: &Histories,
) {
    let met = match entry {
        Some(entry) => entry.prev.0,
        None if logged.is_some() => match told.verdict["current"]["version"].as_u64() {
            Some(version) => version,
            None => return,
        },
        // Rejected, or nothing to do: it met no state that could be known.
        None => return,
    };
    let before = histories.upto(&told.key(), met).last().map(|event| &event.after);
    let alive = before.is_some_and(|row| row.fields.is_some());
    if told.is("delete") {
        let foreign = histories.foreign_change(told, met);
        assert_eq!(foreign, logged.is_some(), "{} at {met}: {}", told.op, told.verdict);
    } else if alive {
        let expected = histories.in_conflict(told, met);
        let found = logged.into_iter().flat_map(|conflict| &conflict.fields);
        let found: BTreeSet<_> = found.filter(|f| f.conflict).map(|f| f.name.clone()).collect();
        // A decision that came too late adds what somebody has changed since.
        let moved = logged.is_some_and(|conflict| conflict.server_version.0 != met);
        let right = if moved { found.is_superset(&expected) } else { found == expected };
        assert!(right, "{found:?}, not {expected:?}: {} at {met}: {}", told.op, told.verdict);
    }
}

/// A counter counts each difference once, a set keeps what either side did, and what nobody contested is
/// as it was asked for.
fn merged(told: &Told<'_>, entry: &LogEntry, histories: &Histories) {
    if !told.is("update") || histories.replaced(told, entry.prev.0) {
        return;
    }
    let (key, patch) = (told.key(), change(entry)["fields"].clone());
    let before = histories.upto(&key, entry.prev.0).last();
    // Brought back by an edit that won: what was buried, with the edit on top.
    let Some(before) = before.and_then(|event| event.after.fields.as_ref()) else { return };
    let contested = histories.in_conflict(told, entry.prev.0);
    for (name, client) in told.op["fields"].as_object().unwrap() {
        let (server, was) = (before.get(name), told.op["was"].get(name));
        let now = patch.get(name).or(server);
        let expected = match (name.as_str(), server, was) {
            ("hours", Some(server), Some(was)) => {
                let number = |value: &Value| value.as_i64().unwrap();
                Some(json!(number(server) + number(client) - number(was)))
            }
            ("tags", Some(server), Some(was)) => {
                let set = |v: &Value| serde_json::from_value::<BTreeSet<u64>>(v.clone()).unwrap();
                let (server, client, was) = (set(server), set(client), set(was));
                let stays = server.iter().filter(|tag| client.contains(tag) || !was.contains(tag));
                let merged: BTreeSet<_> = stays.chain(client.difference(&was)).collect();
                assert_eq!(
                    json!(set(now.unwrap())),
                    json!(merged),
                    "{} at {}",
                    told.op,
                    entry.prev
                );
                None
            }
            _ => (!contested.contains(name)).then(|| client.clone()),
        };
        if let Some(expected) = expected {
            assert_eq!(now, Some(&expected), "{name} of {} at {}", told.op, entry.prev);
        }
    }
}

/// Groups took effect together or not at all.
fn groups(told: &BTreeMap<String, Told<'_>>) {
    let mut groups: HashMap<&str, Vec<&Value>> = HashMap::new();
    for told in told.values() {
        if let Some(group) = told.op["group"].as_str() {
            groups.entry(group).or_default().push(&told.verdict);
        }
    }
    for (group, verdicts) in groups {
        let failed = |verdict: &&Value| {
            matches!(verdict["outcome"].as_str(), Some("rejected" | "conflict" | "superseded"))
        };
        if verdicts.iter().any(failed) {
            let applied = verdicts.iter().find(|verdict| verdict.get("seq").is_some());
            assert!(applied.is_none(), "{group} failed, and yet {applied:?}");
        }
    }
}

/// A device's operations on one entity took effect in the order it made them.
fn in_order(devices: &[Device], log: &HashMap<&str, &LogEntry>) {
    for device in devices {
        let number = |op: &Value| {
            op["op_id"].as_str().unwrap().rsplit('-').next().unwrap().parse::<usize>().unwrap()
        };
        let mut ops: Vec<_> = device.decided.iter().map(|(op, _)| op).collect();
        ops.sort_by_key(|op| number(op));
        let mut last: HashMap<Key, u64> = HashMap::new();
        for op in ops {
            let Some(entry) = log.get(op["op_id"].as_str().unwrap()) else { continue };
            let key = key_of(&change(entry)["entity"]);
            let before = last.insert(key, entry.seq.0).unwrap_or(0);
            assert!(before < entry.seq.0, "{} overtook an earlier one on its entity", op);
        }
    }
}

/// All copies are the same.
pub(crate) fn same(devices: &[Device], store: &BTreeMap<Key, Row>) {
    for device in devices {
        let keys: HashSet<_> = device.rows.keys().chain(store.keys()).collect();
        for key in keys {
            let (mine, theirs) = (device.rows.get(key), store.get(key));
            assert_eq!(mine, theirs, "{} differs from the store in {key:?}", device.client);
        }
    }
}
