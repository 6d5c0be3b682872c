//! The operations of `loadgen writes`, and what the hub makes of each: names, sizes and order are the same.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// Entities a writer remembers for later updates.
const REMEMBERED: usize = 1024;

/// What one operation leads to.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) seq: i64,
    /// The entity's version before; 0 for a create.
    pub(crate) prev: i64,
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    pub(crate) op_id: String,
    pub(crate) user: String,
    pub(crate) client: String,
    /// The changed fields.
    pub(crate) patch: String,
    /// All fields.
    pub(crate) data: String,
    pub(crate) stamps: String,
    pub(crate) verdict: String,
    pub(crate) hash: [u8; 32],
    pub(crate) at: i64,
}

impl Row {
    /// The id of the request that began with it: as long as a UUID, and sorted by time as the hub's are.
    pub(crate) fn request(&self) -> String {
        format!("{:08x}-{:04x}-7000-8000-{:012x}", self.at >> 16, self.at & 0xffff, self.seq)
    }
}

/// An entity as it stands.
#[derive(Debug)]
struct Entity {
    id: String,
    version: i64,
    n: u64,
    stamps: BTreeMap<&'static str, Value>,
}

#[derive(Debug)]
struct Writer {
    prefix: String,
    user: String,
    client: String,
    next: u64,
    known: VecDeque<Entity>,
}

/// All writers, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Writers {
    writers: Vec<Writer>,
    turn: usize,
    padding: String,
}

impl Writers {
    pub(crate) fn new(count: usize, bytes: usize) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let writer = |number: usize| Writer {
            // Writers of a hub begin one after another, too.
            prefix: format!("{:x}-{number}", since + 1000 * number as u128),
            user: format!("u{number}"),
            client: format!("{:x}{number:08x}", number + 1),
            next: 0,
            known: VecDeque::new(),
        };
        Self { writers: (0..count).map(writer).collect(), turn: 0, padding: "x".repeat(bytes) }
    }

    /// The operations of the next `turns` writers, `run` of each.
    pub(crate) fn batch(&mut self, turns: usize, run: usize, mut head: i64) -> Vec<Row> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let at = i64::try_from(now).unwrap_or(i64::MAX);
        let mut rows = Vec::with_capacity(turns * run);
        for _ in 0..turns {
            let count = self.writers.len();
            let writer = &mut self.writers[self.turn % count];
            self.turn += 1;
            let mut changed = Vec::with_capacity(run);
            for n in 1..=run as u64 {
                head += 1;
                let (row, entity) = writer.op(n, head, at, &self.padding);
                rows.push(row);
                changed.push(entity);
            }
            // A writer knows its entities' versions once it has the verdicts.
            writer.known.extend(changed);
            let surplus = writer.known.len().saturating_sub(REMEMBERED);
            writer.known.drain(..surplus);
        }
        rows
    }
}

impl Writer {
    /// Every other operation updates what was created before; the fields that differ are its change.
    fn op(&mut self, n: u64, seq: i64, at: i64, padding: &str) -> (Row, Entity) {
        let number = self.next;
        self.next += 1;
        let op_id = format!("{}-{number}", self.prefix);
        let old = (number % 2 == 1).then(|| self.known.pop_front()).flatten();
        let stamp = json!([seq, self.client, op_id, at]);
        let data = json!({ "n": n, "op": number, "pad": padding }).to_string();
        let (kind, prev, patch, entity) = match old {
            None => {
                let stamps = BTreeMap::from([("", stamp)]);
                let entity = Entity { id: format!("e{op_id}"), version: seq, n, stamps };
                ("create", 0, data.clone(), entity)
            }
            Some(mut entity) => {
                let mut patch = Map::from_iter([("op".to_owned(), json!(number))]);
                entity.stamps.insert("op", stamp.clone());
                if entity.n != n {
                    patch.insert("n".to_owned(), json!(n));
                    entity.stamps.insert("n", stamp);
                }
                let prev = entity.version;
                (entity.n, entity.version) = (n, seq);
                ("update", prev, Value::from(patch).to_string(), entity)
            }
        };
        let verdict = json!({
            "op_id": op_id, "outcome": "applied", "id": entity.id, "seq": seq, "version": seq,
        });
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().zip(op_id.bytes().rev()) {
            *at = byte;
        }
        let row = Row {
            seq,
            prev,
            kind,
            id: entity.id.clone(),
            op_id,
            user: self.user.clone(),
            client: self.client.clone(),
            patch,
            data,
            stamps: json!(entity.stamps).to_string(),
            verdict: verdict.to_string(),
            hash,
            at,
        };
        (row, entity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_dense_and_a_batch_touches_an_entity_once() {
        let mut writers = Writers::new(3, 8);
        let (mut head, mut versions) = (0, BTreeMap::new());
        for _ in 0..9 {
            let batch = writers.batch(2, 5, head);
            for (row, seq) in batch.iter().zip(head + 1..) {
                assert_eq!(row.seq, seq);
                let prev = versions.insert(row.id.clone(), seq).unwrap_or(0);
                assert_eq!(row.prev, prev, "an update is of the version before");
                assert!(prev <= head, "touched twice in a batch");
                assert_eq!(row.kind == "create", prev == 0);
            }
            head += 10;
        }
        assert!(versions.len() < 90, "some operations are updates");
    }
}
