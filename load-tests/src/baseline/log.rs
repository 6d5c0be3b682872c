//! A change log in memory: the answers to `write` and to a `subscribe` with a cursor, and nothing kept.

use std::collections::HashMap;
use std::rc::Rc;

use load_tests::wire;
use serde_json::{Value, json};

/// The epoch of every project: this log never comes from a backup.
pub(crate) const EPOCH: &str = "00000000-0000-4000-8000-000000000000";

/// The changes of each project, as finished frames; `seq` is the index plus one.
#[derive(Debug, Default)]
pub(crate) struct Log {
    projects: HashMap<String, Vec<Rc<[u8]>>>,
}

/// What a `write` leads to.
#[derive(Debug)]
pub(crate) struct Written {
    /// The `written` frame.
    pub(crate) reply: Vec<u8>,
    /// The room that hears of it.
    pub(crate) room: String,
    /// One `change` frame an operation.
    pub(crate) changes: Vec<Rc<[u8]>>,
}

impl Log {
    /// The last position of a project.
    pub(crate) fn head(&self, project: &str) -> usize {
        self.projects.get(project).map_or(0, Vec::len)
    }

    /// The changes after `since`.
    pub(crate) fn after(&self, project: &str, since: usize) -> &[Rc<[u8]>] {
        self.projects.get(project).and_then(|log| log.get(since..)).unwrap_or_default()
    }

    /// Applies every operation of a `write`, unconditionally; `None` if it is none.
    pub(crate) fn write(&mut self, text: &[u8]) -> Option<Written> {
        let request: Value = serde_json::from_slice(text).ok()?;
        let project = request["project"].as_str()?;
        let log = self.projects.entry(project.to_owned()).or_default();
        let mut changes = Vec::new();
        let mut verdicts = Vec::new();
        for op in request["ops"].as_array()? {
            let seq = log.len() + 1;
            verdicts.push(json!({
                "op_id": op["op_id"], "outcome": "applied", "id": op["id"], "seq": seq, "version": seq,
            }));
            let change = json!({
                "entity": { "type": op["type"], "id": op["id"] }, "kind": op["kind"],
                "version": seq, "prev": op["base"], "fields": op["fields"], "actor": "baseline",
                "at": 0, "op_id": op["op_id"],
            });
            // As the hub writes it: what a reader looks for first stands first.
            let rest = change.to_string();
            let text = format!(
                r#"{{"type":"change","project":"{project}","seq":{seq},{}"#,
                rest.trim_start_matches('{')
            );
            let frame: Rc<[u8]> = wire::frame(wire::TEXT, text.as_bytes()).into();
            log.push(Rc::clone(&frame));
            changes.push(frame);
        }
        let reply = format!(
            r#"{{"type":"written","id":{},"project":"{project}","verdicts":{}}}"#,
            request["id"],
            Value::Array(verdicts)
        );
        Some(Written {
            reply: wire::frame(wire::TEXT, reply.as_bytes()),
            room: format!("project:{project}"),
            changes,
        })
    }
}
