//! What `syncline sync` shows a person: tables of what the hub answered. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use humantime_serde::re::humantime::format_rfc3339_seconds;
use serde_json::Value;

/// The outcomes a request's record counts, in the order they are told.
const OUTCOMES: [&str; 7] =
    ["applied", "merged", "noop", "superseded", "conflict", "rejected", "replayed"];

/// Where projects stand, a block for each.
pub(super) fn statuses(projects: &[Value]) -> String {
    let mut text = String::new();
    for status in projects {
        if !text.is_empty() {
            text.push('\n');
        }
        let failed = match &status["oldest_failed"] {
            Value::Null => word(&status["failed"]),
            oldest => format!("{}, the oldest from {}", word(&status["failed"]), time(oldest)),
        };
        let last = &status["last_batch"];
        let last = if last.is_null() { "none".to_owned() } else { batch(last) };
        text += &table(&[
            row([&word(&status["project"]), ""]),
            row(["  head", &word(&status["head"])]),
            row(["  epoch", &word(&status["epoch"])]),
            row(["  failed", &failed]),
            row(["  open conflicts", &word(&status["open_conflicts"])]),
            row(["  last request", &last]),
        ]);
        let devices = status["devices"].as_array().map_or(&[][..], Vec::as_slice);
        if !devices.is_empty() {
            let mut rows = vec![row(["  DEVICE", "ACKNOWLEDGED", "BEHIND", "ACTIVE", "LAST SEEN"])];
            rows.extend(devices.iter().map(|device| {
                row([
                    &format!("  {}", word(&device["client"])),
                    &word(&device["acked"]),
                    &word(&device["behind"]),
                    if device["active"] == true { "yes" } else { "no" },
                    &time(&device["last_seen"]),
                ])
            }));
            text += &table(&rows);
        }
    }
    text
}

/// One request in a line.
fn batch(record: &Value) -> String {
    format!(
        "{} by {} ({}): {}; {} ms, {}, {}",
        word(&record["kind"]),
        word(&record["user"]),
        word(&record["client"]),
        outcomes(record),
        word(&record["duration_ms"]),
        word(&record["result"]),
        time(&record["at"]),
    )
}

fn outcomes(record: &Value) -> String {
    let counted = OUTCOMES.iter().filter(|outcome| record[**outcome].as_i64() > Some(0));
    let counted: Vec<_> =
        counted.map(|outcome| format!("{} {outcome}", record[*outcome])).collect();
    if counted.is_empty() { "-".to_owned() } else { counted.join(", ") }
}

/// The failed lane.
pub(super) fn failed(failed: &[Value]) -> String {
    if failed.is_empty() {
        return "no failed operations\n".to_owned();
    }
    let mut rows = vec![row(["OP", "USER", "WHAT", "CODE", "ATTEMPTS", "AT", "MESSAGE"])];
    rows.extend(failed.iter().map(|one| {
        let op = &one["op"];
        row([
            &word(&one["op_id"]),
            &word(&one["user"]),
            &format!("{} {} {}", word(&op["kind"]), word(&op["type"]), word(&op["id"])),
            &word(&one["code"]),
            &word(&one["attempts"]),
            &time(&one["at"]),
            &word(&one["message"]),
        ])
    }));
    table(&rows)
}

/// The log of requests.
pub(super) fn log(log: &[Value]) -> String {
    if log.is_empty() {
        return "no requests\n".to_owned();
    }
    let heads = ["AT", "KIND", "USER", "CLIENT", "OPS", "BYTES", "OUTCOMES", "MS", "RESULT"];
    let mut rows = vec![row(heads)];
    rows.extend(log.iter().map(|record| {
        row([
            &time(&record["at"]),
            &word(&record["kind"]),
            &word(&record["user"]),
            &word(&record["client"]),
            &word(&record["ops"]),
            &word(&record["bytes"]),
            &outcomes(record),
            &word(&record["duration_ms"]),
            &word(&record["result"]),
        ])
    }));
    table(&rows)
}

/// What became of operations, and how many ended how.
pub(super) fn verdicts(verdicts: &[Value]) -> String {
    if verdicts.is_empty() {
        return "no failed operations\n".to_owned();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut rows = vec![row(["OP", "OUTCOME", "CODE", "MESSAGE"])];
    for verdict in verdicts {
        let outcome = word(&verdict["outcome"]);
        let (code, message) = (word(&verdict["code"]), word(&verdict["message"]));
        rows.push(row([&word(&verdict["op_id"]), &outcome, &code, &message]));
        *counts.entry(outcome).or_default() += 1;
    }
    let counts: Vec<_> =
        counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    format!("{}{}\n", table(&rows), counts.join(", "))
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Columns as wide as their widest cell; the last one as it is.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Nothing fails when a text is written to a text.
            let _infallible = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A value without quotes; `-` for none.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Milliseconds since the Unix epoch as a date and time.
fn time(value: &Value) -> String {
    let at = value.as_u64().and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    at.map_or_else(|| word(value), |at| format_rfc3339_seconds(at).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_tells_what_waits_and_who_is_behind() {
        let text = statuses(&[json!({
            "project": "site-7", "epoch": "e", "head": 12, "failed": 2, "oldest_failed": 1_000,
            "open_conflicts": 1, "devices": [
                { "client": "phone-1", "acked": 9, "behind": 3, "active": true, "last_seen": 0 },
            ],
            "last_batch": {
                "kind": "write", "user": "ana", "client": "phone-1", "ops": 3, "applied": 1,
                "rejected": 2, "noop": 0, "duration_ms": 4, "result": "ok", "at": 0,
            },
        })]);
        assert_eq!(
            text,
            "\
site-7
  head            12
  epoch           e
  failed          2, the oldest from 1970-01-01T00:00:01Z
  open conflicts  1
  last request    write by ana (phone-1): 1 applied, 2 rejected; 4 ms, ok, 1970-01-01T00:00:00Z
  DEVICE   ACKNOWLEDGED  BEHIND  ACTIVE  LAST SEEN
  phone-1  9             3       yes     1970-01-01T00:00:00Z
"
        );
    }

    #[test]
    fn verdicts_are_listed_and_counted() {
        let text = verdicts(&[
            json!({ "op_id": "a", "outcome": "applied" }),
            json!({ "op_id": "b", "outcome": "rejected", "code": "forbidden", "message": "no" }),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "a   applied   -          -");
        assert_eq!(lines[2], "b   rejected  forbidden  no");
        assert_eq!(lines[3], "1 applied, 1 rejected");
    }
}
