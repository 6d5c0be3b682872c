//! What becomes of one field that an operation sets: a pure function of both sides and the field's rule.
//!
//! A field is in conflict if somebody else changed it after the version the client saw, to another value
//! than the client remembers. A field with a merge kind is merged whether or not it is in conflict, as
//! long as the client says what it started from (`was`): its queued edits are differences to each other,
//! so the second one must not overwrite what the first one merged into.
//!
//! The kinds are those of state-based and operation-based CRDTs (Shapiro et al., *A comprehensive study
//! of Convergent and Commutative Replicated Data Types*, 2011), reduced to a three-way merge because the
//! store orders all operations.

use std::collections::HashSet;

use serde_json::Value;

use crate::protocol::conflict::{Merge, Strategy};
use crate::protocol::json;

/// How a field is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Who prevails.
    pub strategy: Strategy,
    /// How two edits become one, under [`Strategy::Merge`].
    pub merge: Option<Merge>,
    /// Who prevails where they cannot; not [`Strategy::Merge`].
    pub fallback: Strategy,
}

impl Rule {
    /// The strategy where nothing can be merged: for a deletion against an edit.
    #[must_use]
    pub fn whole(&self) -> Strategy {
        if self.strategy == Strategy::Merge { self.fallback } else { self.strategy }
    }
}

/// When an edit was made and by whom, for [`Strategy::LastWriteWins`]: the later one wins; of two at the
/// same time the greater client, then the greater operation, so that every order of arrival ends alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edit<'a> {
    /// Milliseconds since the Unix epoch, corrected and not in the future.
    pub at: i64,
    /// The installation.
    pub client: &'a str,
    /// The operation.
    pub op: &'a str,
}

/// Both sides of one field.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// What is there; `None` if the field was never set.
    pub server: Option<&'a Value>,
    /// What the operation sets.
    pub client: &'a Value,
    /// What the client started from, if it says so.
    pub was: Option<&'a Value>,
    /// Whether somebody else changed the field meanwhile.
    pub conflict: bool,
    /// The edit that is there.
    pub theirs: Edit<'a>,
    /// The operation's edit.
    pub ours: Edit<'a>,
}

/// What the field is to become.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolved {
    /// What the operation sets.
    Client,
    /// What is there already.
    Server,
    /// What both make together; it may be what is there already.
    Merged(Value),
    /// The user has to decide.
    Park,
}

/// Resolves one field.
#[must_use]
pub fn resolve(rule: Rule, sides: Sides<'_>) -> Resolved {
    if rule.strategy == Strategy::Merge
        && let (Some(kind), Some(server)) = (rule.merge, sides.server)
        && let Some(merged) = combine(kind, server, sides.client, sides.was, sides.conflict)
    {
        let asked = merged == *sides.client;
        return if asked { Resolved::Client } else { Resolved::Merged(merged) };
    }
    if sides.server == Some(sides.client) {
        return Resolved::Server;
    }
    if !sides.conflict {
        return Resolved::Client;
    }
    match rule.whole() {
        Strategy::ClientWins => Resolved::Client,
        Strategy::LastWriteWins if sides.ours > sides.theirs => Resolved::Client,
        Strategy::Manual => Resolved::Park,
        Strategy::ServerWins | Strategy::LastWriteWins | Strategy::Merge => Resolved::Server,
    }
}

/// Both edits in one, if the values are of the kind. Without `was` only what needs no common start is
/// combined, and only where there is a conflict.
fn combine(
    kind: Merge,
    server: &Value,
    client: &Value,
    was: Option<&Value>,
    conflict: bool,
) -> Option<Value> {
    match kind {
        Merge::Counter => count(server, client, was?),
        Merge::Max => Some(if compare(server, client)?.is_gt() { server } else { client }.clone()),
        Merge::Min => Some(if compare(server, client)?.is_lt() { server } else { client }.clone()),
        Merge::Set if was.is_some() || conflict => {
            let none = Vec::new();
            let was = was.map_or(Some(&none), Value::as_array)?;
            Some(Value::Array(union(server.as_array()?, client.as_array()?, was)))
        }
        Merge::Append => append(server, client, was?),
        Merge::Set => None,
    }
}

/// `server + (client - was)`; whole numbers stay whole, and such as every reader takes.
fn count(server: &Value, client: &Value, was: &Value) -> Option<Value> {
    if let (Some(server), Some(client), Some(was)) = (whole(server), whole(client), whole(was)) {
        let sum = i64::try_from(server + client - was).ok();
        return sum.filter(|sum| json::is_exact(*sum)).map(Value::from);
    }
    let sum = server.as_f64()? + (client.as_f64()? - was.as_f64()?);
    serde_json::Number::from_f64(sum).map(Value::Number)
}

fn whole(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

/// Numbers by size, texts by their code points (so ISO 8601 dates by time); nothing else has an order.
fn compare(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => match (whole(a), whole(b)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
    }
}

/// What is there, without what the client removed, then what the client added that is not there yet. A
/// value that is there twice stays twice: who edits nothing changes nothing.
fn union(server: &[Value], client: &[Value], was: &[Value]) -> Vec<Value> {
    // By their text, because long lists come from strangers and values have no hash.
    let texts = |values: &[Value]| values.iter().map(Value::to_string).collect::<HashSet<_>>();
    let (kept, started) = (texts(client), texts(was));
    let mut there = HashSet::with_capacity(server.len());
    let mut result = Vec::with_capacity(server.len());
    for value in server {
        let text = value.to_string();
        if kept.contains(&text) || !started.contains(&text) {
            there.insert(text);
            result.push(value.clone());
        }
    }
    for value in client {
        let text = value.to_string();
        if !started.contains(&text) && there.insert(text) {
            result.push(value.clone());
        }
    }
    result
}

/// What is there, then what the client added to the end of what it started from.
fn append(server: &Value, client: &Value, was: &Value) -> Option<Value> {
    match (server, client, was) {
        (Value::String(server), Value::String(client), Value::String(was)) => {
            Some(Value::String(format!("{server}{}", client.strip_prefix(was.as_str())?)))
        }
        (Value::Array(server), Value::Array(client), Value::Array(was)) => {
            let added = client.strip_prefix(was.as_slice())?;
            Some(Value::Array(server.iter().chain(added).cloned().collect()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
