//! Endless durable operations: creates, and updates of what was created before.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::target::PROJECT;

/// Entities remembered for later updates.
const REMEMBERED: usize = 1024;

/// One writer's operations and what became of them.
#[derive(Debug)]
pub(crate) struct Ops {
    /// Unique to this run and writer, so that a store kept from another run is no obstacle.
    prefix: String,
    next: u64,
    /// Entities with a known version, oldest first.
    known: VecDeque<(String, u64)>,
    /// Operations sent and not answered.
    waiting: HashSet<String>,
    padding: String,
    /// Verdicts by outcome.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Positions of the applied operations.
    pub(crate) seqs: Vec<u64>,
    /// Verdicts for operations that were not waiting for one.
    pub(crate) strays: u64,
}

impl Ops {
    /// Operations of writer number `writer`, each with `padding` bytes of text.
    pub(crate) fn new(writer: usize, padding: usize) -> Result<Self> {
        let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        Ok(Self {
            prefix: format!("{run:x}-{writer}"),
            next: 0,
            known: VecDeque::new(),
            waiting: HashSet::new(),
            padding: "x".repeat(padding),
            outcomes: BTreeMap::new(),
            seqs: Vec::new(),
            strays: 0,
        })
    }

    /// How many operations wait for their verdict.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A `write` of `count` operations; the first carries the number `n`.
    pub(crate) fn write(&mut self, n: u64, count: usize) -> String {
        let ops: Vec<String> = (0..count as u64).map(|i| self.op(n + i)).collect();
        let ops = ops.join(",");
        format!(r#"{{"type":"write","id":{n},"project":"{PROJECT}","ops":[{ops}]}}"#)
    }

    fn op(&mut self, n: u64) -> String {
        let number = self.next;
        self.next += 1;
        let op_id = format!("{}-{number}", self.prefix);
        let (kind, id, base) = match self.known.pop_front() {
            Some((id, version)) if number % 2 == 1 => ("update", id, version),
            kept => {
                self.known.extend(kept);
                ("create", format!("e{op_id}"), 0)
            }
        };
        // `op` differs every time: an update that changes nothing would not be written.
        let fields = json!({ "n": n, "op": number, "pad": self.padding });
        let op = format!(
            r#"{{"op_id":"{op_id}","kind":"{kind}","type":"bench","id":"{id}","base":{base},"fields":{fields}}}"#
        );
        self.waiting.insert(op_id);
        op
    }

    /// Takes a `written` frame.
    ///
    /// # Errors
    /// If it is not of its form.
    pub(crate) fn written(&mut self, text: &[u8]) -> Result<()> {
        let reply: Value = serde_json::from_slice(text)?;
        for verdict in reply["verdicts"].as_array().context("`written` without verdicts")? {
            let op_id = verdict["op_id"].as_str().context("a verdict without `op_id`")?;
            if !self.waiting.remove(op_id) {
                self.strays += 1;
            }
            let outcome = verdict["outcome"].as_str().context("a verdict without `outcome`")?;
            *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
            if outcome == "applied" {
                self.seqs.push(verdict["seq"].as_u64().context("applied, but without `seq`")?);
                let id = verdict["id"].as_str().context("a verdict without `id`")?.to_owned();
                let version = verdict["version"].as_u64().context("applied without `version`")?;
                self.known.push_back((id, version));
                if self.known.len() > REMEMBERED {
                    self.known.pop_front();
                }
            }
        }
        Ok(())
    }
}

/// Whether `seqs` are all different and leave nothing out between their ends.
pub(crate) fn dense(mut seqs: Vec<u64>) -> bool {
    seqs.sort_unstable();
    seqs.windows(2).all(|pair| pair[1] == pair[0] + 1)
}
