//! The second half of a commit: write what was decided, each table in one statement.
//!
//! SQLite takes the rows of a table as one JSON text (`jsonb_each`: a row is then not written out as text to be
//! read again for each column), PostgreSQL as one array per column (`unnest`). A statement without rows is not sent.

use serde_json::value::RawValue;

use super::super::{
    Answer, Batch, EntityRow, Given, LocalName, LogEntry, NewNotification, Parked, PendingOp,
    StoreError, value,
};
use super::{Decision, Tx, conflicts, notify, verdicts};
use crate::id::{EntityId, EntityKey, OpId};

/// Writes everything the plan decided but the new verdicts.
pub(super) async fn rows(tx: &mut Tx, rows: Rows<'_>, now_ms: i64) -> Result<(), StoreError> {
    if !rows.entries.is_empty() {
        changes(tx, &rows.entries).await?;
        heads(tx, &rows.heads).await?;
    }
    if !rows.created.is_empty() {
        entities(tx, &rows.created, Are::New, now_ms).await?;
    }
    if !rows.changed.is_empty() {
        entities(tx, &rows.changed, Are::Known, now_ms).await?;
    }
    for (project, op, given) in rows.again {
        verdicts::verdict_again(tx, project, op, given, now_ms).await?;
    }
    for (project, op_id) in rows.replaced {
        verdicts::leave_lane(tx, project, op_id).await?;
    }
    if !rows.mappings.is_empty() {
        conflicts::write_mappings(tx, &rows.mappings, now_ms).await?;
    }
    if !rows.conflicts.is_empty() {
        conflicts::write_conflicts(tx, &rows.conflicts).await?;
    }
    if !rows.notifications.is_empty() {
        notify::arm(tx, &rows.notifications).await?;
    }
    Ok(())
}

/// What goes into each table, every row with its project.
#[derive(Default)]
pub(super) struct Rows<'a> {
    heads: Vec<(&'a str, i64)>,
    entries: Vec<(&'a str, &'a LogEntry)>,
    /// The entities there are no rows of: to write them is less work than to write what may be there.
    created: Vec<(&'a str, &'a EntityKey, &'a EntityRow)>,
    changed: Vec<(&'a str, &'a EntityKey, &'a EntityRow)>,
    pub(super) verdicts: Vec<(&'a str, &'a PendingOp, &'a Given)>,
    again: Vec<(&'a str, &'a PendingOp, &'a Given)>,
    replaced: Vec<(&'a str, &'a OpId)>,
    mappings: Vec<(&'a str, &'a (LocalName, EntityId))>,
    conflicts: Vec<(&'a str, &'a Parked)>,
    notifications: Vec<(&'a str, &'a NewNotification)>,
}

impl<'a> Rows<'a> {
    pub(super) fn of(batches: &[Batch<'a>], decisions: &'a [Decision]) -> Self {
        let mut rows = Self::default();
        for (batch, decision) in batches.iter().zip(decisions) {
            let Decision { snapshot, effects, notifications } = decision;
            let project = batch.project.as_str();
            rows.heads.extend(effects.entries.last().map(|e| (project, value::from_seq(e.seq))));
            rows.entries.extend(effects.entries.iter().map(|entry| (project, entry)));
            for (key, row) in &effects.entities {
                let known = snapshot.entities.contains_key(key);
                let rows = if known { &mut rows.changed } else { &mut rows.created };
                rows.push((project, key, row));
            }
            rows.replaced.extend(effects.replaced.iter().map(|op_id| (project, op_id)));
            rows.mappings.extend(effects.mappings.iter().map(|mapping| (project, mapping)));
            rows.conflicts.extend(effects.conflicts.iter().map(|parked| (project, parked)));
            rows.notifications.extend(notifications.iter().map(|n| (project, n)));
            for (op, answer) in batch.ops.iter().zip(&effects.answers) {
                if let Answer::New(given) = answer {
                    let rows = if given.again { &mut rows.again } else { &mut rows.verdicts };
                    rows.push((project, op, given));
                }
            }
        }
        rows
    }
}

/// One column of some rows, as an array for PostgreSQL.
pub(in super::super) fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

async fn heads(tx: &mut Tx, rows: &[(&str, i64)]) -> Result<(), StoreError> {
    match tx {
        Tx::Sqlite(tx) => {
            sqlx::query(
                "UPDATE sync_head SET head_seq = v.value->>1 FROM jsonb_each($1) v
                 WHERE sync_head.project = v.value->>0",
            )
            .bind(value::json_text(&rows))
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            sqlx::query(
                "UPDATE sync_head h SET head_seq = v.seq
                 FROM unnest($1::text[], $2::bigint[]) AS v (project, seq)
                 WHERE h.project = v.project",
            )
            .bind(column(rows, |(project, _)| *project))
            .bind(column(rows, |(_, seq)| *seq))
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

async fn changes(tx: &mut Tx, rows: &[(&str, &LogEntry)]) -> Result<(), StoreError> {
    fn patch(entry: &LogEntry) -> Option<&str> {
        entry.fields.as_deref().map(RawValue::get)
    }
    match tx {
        Tx::Sqlite(tx) => {
            let rows = column(rows, |(project, e)| {
                let EntityKey { kind, id } = &e.entity;
                let (change, patch) = (e.kind.as_str(), patch(e));
                #[rustfmt::skip]
                let row = (
                    project, e.seq, kind, id, change, patch, e.prev, &e.actor, &e.client, &e.op_id, e.at,
                );
                row
            });
            sqlx::query(
                "INSERT INTO changes
                     (project, seq, type, id, kind, patch, prev, actor, client, op_id, at)
                 SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5,
                     value->>6, value->>7, value->>8, value->>9, value->>10
                 FROM jsonb_each($1)",
            )
            .bind(value::json_text(&rows))
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            sqlx::query(
                "INSERT INTO changes
                     (project, seq, type, id, kind, patch, prev, actor, client, op_id, at)
                 SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[],
                     $6::text[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::bigint[])",
            )
            .bind(column(rows, |(project, _)| *project))
            .bind(column(rows, |(_, e)| value::from_seq(e.seq)))
            .bind(column(rows, |(_, e)| e.entity.kind.as_str()))
            .bind(column(rows, |(_, e)| e.entity.id.as_str()))
            .bind(column(rows, |(_, e)| e.kind.as_str()))
            .bind(column(rows, |(_, e)| patch(e)))
            .bind(column(rows, |(_, e)| value::from_seq(e.prev)))
            .bind(column(rows, |(_, e)| e.actor.as_str()))
            .bind(column(rows, |(_, e)| e.client.as_str()))
            .bind(column(rows, |(_, e)| e.op_id.as_str()))
            .bind(column(rows, |(_, e)| e.at))
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// Whether there are rows of these entities.
#[derive(Clone, Copy)]
enum Are {
    New,
    Known,
}

async fn entities(
    tx: &mut Tx,
    rows: &[(&str, &EntityKey, &EntityRow)],
    are: Are,
    now_ms: i64,
) -> Result<(), StoreError> {
    macro_rules! insert {
        ($rows:literal) => {
            concat!(
                "INSERT INTO entities (project, type, id, version, data, deleted_at, writer,
                     writer_base, source_versions, stamps) ",
                $rows
            )
        };
    }
    macro_rules! write {
        ($rows:literal) => {
            match are {
                Are::New => insert!($rows),
                Are::Known => concat!(
                    insert!($rows),
                    " ON CONFLICT (project, type, id) DO UPDATE SET
                         version = excluded.version, data = excluded.data,
                         deleted_at = excluded.deleted_at, writer = excluded.writer,
                         writer_base = excluded.writer_base,
                         source_versions = excluded.source_versions, stamps = excluded.stamps"
                ),
            }
        };
    }
    let data = column(rows, |(_, _, row)| {
        value::json_text(if row.deleted { &row.buried } else { &row.fields })
    });
    let stamps = column(rows, |(_, _, row)| value::json_text(&row.stamps));
    let sources = column(rows, |(_, _, row)| value::json_text(&row.source_versions));
    let deleted_at = |row: &EntityRow| row.deleted.then_some(now_ms);
    match tx {
        Tx::Sqlite(tx) => {
            let rows: Vec<_> = rows
                .iter()
                .zip(data.iter().zip(sources.iter().zip(&stamps)))
                .map(|((project, key, row), (data, (sources, stamps)))| {
                    let (kind, id, deleted_at) = (&key.kind, &key.id, deleted_at(row));
                    // An older binary takes every edit behind this version for a conflict.
                    let (version, writer, base) = (row.version, row.stamps.writer(), row.version);
                    #[rustfmt::skip]
                    let row = (
                        project, kind, id, version, data, deleted_at, writer, base, sources, stamps,
                    );
                    row
                })
                .collect();
            // `WHERE true` tells the parser that `ON` does not begin a join.
            sqlx::query(write!(
                "SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5,
                     value->>6, value->>7, value->>8, value->>9
                 FROM jsonb_each($1) WHERE true"
            ))
            .bind(value::json_text(&rows))
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            sqlx::query(write!(
                "SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[],
                     $6::bigint[], $7::text[], $8::bigint[], $9::text[], $10::text[])"
            ))
            .bind(column(rows, |(project, ..)| *project))
            .bind(column(rows, |(_, key, _)| key.kind.as_str()))
            .bind(column(rows, |(_, key, _)| key.id.as_str()))
            .bind(column(rows, |(_, _, row)| value::from_seq(row.version)))
            .bind(data)
            .bind(column(rows, |(_, _, row)| deleted_at(row)))
            .bind(column(rows, |(_, _, row)| row.stamps.writer()))
            .bind(column(rows, |(_, _, row)| value::from_seq(row.version)))
            .bind(sources)
            .bind(stamps)
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}
