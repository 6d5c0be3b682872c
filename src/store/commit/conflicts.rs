//! The part of a commit that few operations need: names clients gave to entities, and the conflict log.
//!
//! Each statement is sent only if there is something to look up or to write.

use std::collections::HashMap;

use super::super::conflicts::StoredConflict;
use super::super::{Batch, LocalName, Parked, PendingOp, Snapshot, StoreError, value};
use super::Tx;
use super::write::column;
use crate::id::{ConflictId, EntityId, EntityRef};
use crate::protocol::conflict::Conflict;

/// Reads the ids of the local ids in the batches into their snapshots.
pub(super) async fn mappings(
    tx: &mut Tx,
    batches: &[Batch<'_>],
    snapshots: &mut HashMap<String, Snapshot>,
) -> Result<(), StoreError> {
    let names = |batch: &Batch<'_>| -> Vec<(String, LocalName)> {
        let of_op = |op: &PendingOp| -> Vec<LocalName> {
            op.locals.iter().map(|(kind, id)| op.local_name(kind, id)).collect()
        };
        let names = batch.ops.iter().flat_map(of_op);
        names.map(|name| (batch.project.to_string(), name)).collect()
    };
    let names: Vec<_> = batches.iter().flat_map(names).collect();
    if names.is_empty() {
        return Ok(());
    }
    let ids: Vec<(i64, String)> = match tx {
        Tx::Sqlite(tx) => {
            let rows = column(&names, |(project, name)| {
                (project, &name.user, &name.client, &name.kind, &name.id)
            });
            sqlx::query_as(
                "SELECT k.key, m.server_id FROM json_each($1) k CROSS JOIN id_mappings m
                 WHERE m.project = k.value->>0 AND m.user_id = k.value->>1
                   AND m.client = k.value->>2 AND m.type = k.value->>3
                   AND m.local_id = k.value->>4",
            )
            .bind(value::json_text(&rows))
            .fetch_all(&mut **tx)
            .await?
        }
        Tx::Postgres(tx) => {
            sqlx::query_as(
                "SELECT k.n - 1, m.server_id
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                     WITH ORDINALITY AS k (project, user_id, client, type, local_id, n)
                 JOIN id_mappings m USING (project, user_id, client, type, local_id)",
            )
            .bind(column(&names, |(project, _)| project.as_str()))
            .bind(column(&names, |(_, name)| name.user.as_str()))
            .bind(column(&names, |(_, name)| name.client.as_str()))
            .bind(column(&names, |(_, name)| name.kind.as_str()))
            .bind(column(&names, |(_, name)| name.id.as_str()))
            .fetch_all(&mut **tx)
            .await?
        }
    };
    for (place, id) in ids {
        let (project, name) = &names[usize::try_from(place).unwrap_or_default()];
        if let Some(snapshot) = snapshots.get_mut(project) {
            snapshot.mappings.insert(name.clone(), value::name(&id)?);
        }
    }
    Ok(())
}

/// Open conflicts about one commit's entities that are told that a backend writes over them: the newest.
const MOST_OVERRULED: i64 = 1000;

/// Reads the conflicts that the batches resolve, and the open ones about entities that backends write, with the
/// entries beside them that tell of it.
pub(super) async fn conflicts(
    tx: &mut Tx,
    batches: &[Batch<'_>],
    snapshots: &mut HashMap<String, Snapshot>,
) -> Result<(), StoreError> {
    let mut named: Vec<(&str, ConflictId)> = Vec::new();
    let mut written: Vec<(&str, &str, &str)> = Vec::new();
    for batch in batches {
        let project = batch.project.as_str();
        for PendingOp { op, upsert, .. } in batch.ops {
            named.extend(op.conflict.map(|id| (project, id)));
            if let (true, EntityRef::Id(id)) = (upsert, &op.id) {
                written.push((project, op.entity_type.as_str(), id.as_str()));
            }
        }
    }
    let waiting = if written.is_empty() { Vec::new() } else { open(tx, &written).await? };
    let waiting: Vec<_> =
        waiting.into_iter().map(StoredConflict::read).collect::<Result<_, _>>()?;
    named.extend(waiting.iter().map(|(p, parked)| (p.as_str(), parked.conflict.id.overruled())));
    let known = if named.is_empty() { Vec::new() } else { by_id(tx, &named).await? };
    let known: Vec<_> = known.into_iter().map(StoredConflict::read).collect::<Result<_, _>>()?;
    for (project, parked) in waiting.into_iter().chain(known) {
        if let Some(snapshot) = snapshots.get_mut(&project) {
            snapshot.conflicts.insert(parked.conflict.id, parked);
        }
    }
    Ok(())
}

async fn by_id(
    tx: &mut Tx,
    named: &[(&str, ConflictId)],
) -> Result<Vec<StoredConflict>, StoreError> {
    Ok(match tx {
        Tx::Sqlite(tx) => {
            sqlx::query_as(
                "SELECT c.* FROM json_each($1) k CROSS JOIN conflict_log c
                 WHERE c.project = k.value->>0 AND c.id = k.value->>1",
            )
            .bind(value::json_text(&named))
            .fetch_all(&mut **tx)
            .await?
        }
        Tx::Postgres(tx) => {
            sqlx::query_as(
                "SELECT c.* FROM unnest($1::text[], $2::text[]) AS k (project, id)
                 JOIN conflict_log c USING (project, id)",
            )
            .bind(column(named, |(project, _)| *project))
            .bind(column(named, |(_, id)| id.to_string()))
            .fetch_all(&mut **tx)
            .await?
        }
    })
}

async fn open(
    tx: &mut Tx,
    written: &[(&str, &str, &str)],
) -> Result<Vec<StoredConflict>, StoreError> {
    Ok(match tx {
        Tx::Sqlite(tx) => {
            sqlx::query_as(
                "SELECT c.* FROM json_each($1) k CROSS JOIN conflict_log c
                 WHERE c.state = 'open' AND c.project = k.value->>0 AND c.type = k.value->>1
                   AND c.entity_id = k.value->>2 ORDER BY c.id DESC LIMIT $2",
            )
            .bind(value::json_text(&written))
            .bind(MOST_OVERRULED)
            .fetch_all(&mut **tx)
            .await?
        }
        Tx::Postgres(tx) => {
            sqlx::query_as(
                "SELECT c.* FROM unnest($1::text[], $2::text[], $3::text[])
                     AS k (project, type, entity_id)
                 JOIN conflict_log c USING (project, type, entity_id) WHERE c.state = 'open'
                 ORDER BY c.id DESC LIMIT $4",
            )
            .bind(column(written, |(project, ..)| *project))
            .bind(column(written, |(_, kind, _)| *kind))
            .bind(column(written, |(.., id)| *id))
            .bind(MOST_OVERRULED)
            .fetch_all(&mut **tx)
            .await?
        }
    })
}

/// Keeps the ids given to local names. A name that has one keeps it.
pub(super) async fn write_mappings(
    tx: &mut Tx,
    rows: &[(&str, &(LocalName, EntityId))],
    now_ms: i64,
) -> Result<(), StoreError> {
    match tx {
        Tx::Sqlite(tx) => {
            let rows = column(rows, |(project, (name, id))| {
                (project, &name.user, &name.client, &name.kind, &name.id, id)
            });
            sqlx::query(
                "INSERT INTO id_mappings (project, user_id, client, type, local_id, server_id, at)
                 SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, $2
                 FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
            )
            .bind(value::json_text(&rows))
            .bind(now_ms)
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            sqlx::query(
                "INSERT INTO id_mappings (project, user_id, client, type, local_id, server_id, at)
                 SELECT v.*, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],
                     $5::text[], $6::text[]) v ON CONFLICT DO NOTHING",
            )
            .bind(column(rows, |(project, _)| *project))
            .bind(column(rows, |(_, (name, _))| name.user.as_str()))
            .bind(column(rows, |(_, (name, _))| name.client.as_str()))
            .bind(column(rows, |(_, (name, _))| name.kind.as_str()))
            .bind(column(rows, |(_, (name, _))| name.id.as_str()))
            .bind(column(rows, |(_, (_, id))| id.as_str()))
            .bind(now_ms)
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// Writes entries of the conflict log, new or changed.
pub(super) async fn write_conflicts(
    tx: &mut Tx,
    rows: &[(&str, &Parked)],
) -> Result<(), StoreError> {
    macro_rules! upsert {
        ($rows:literal) => {
            concat!(
                "INSERT INTO conflict_log (project, id, user_id, client, op_id, type, entity_id,
                     kind, op_kind, strategy, outcome, state, base, server_version, fields, op,
                     created_at, resolved_at, resolved_by) ",
                $rows,
                " ON CONFLICT (project, id) DO UPDATE SET
                     outcome = excluded.outcome, state = excluded.state,
                     server_version = excluded.server_version, fields = excluded.fields,
                     op = excluded.op, resolved_at = excluded.resolved_at,
                     resolved_by = excluded.resolved_by"
            )
        };
    }
    let op = |parked: &Parked| parked.op.as_ref().map(value::json_text);
    match tx {
        Tx::Sqlite(tx) => {
            let rows = column(rows, |(project, parked)| {
                let c: &Conflict = &parked.conflict;
                let who = (project, c.id, &c.user, &c.client, &c.op_id);
                let what = (&c.entity.kind, &c.entity.id, c.kind, c.op_kind, c.strategy);
                let state = (c.outcome, c.state, c.base, c.server_version);
                let rest = (value::json_text(&c.fields), op(parked), c.created_at);
                (who, what, state, rest, (c.resolved_at, &c.resolved_by))
            });
            sqlx::query(upsert!(
                "SELECT value->>'$[0][0]', value->>'$[0][1]', value->>'$[0][2]', value->>'$[0][3]',
                     value->>'$[0][4]', value->>'$[1][0]', value->>'$[1][1]', value->>'$[1][2]',
                     value->>'$[1][3]', value->>'$[1][4]', value->>'$[2][0]', value->>'$[2][1]',
                     value->>'$[2][2]', value->>'$[2][3]', value->>'$[3][0]', value->>'$[3][1]',
                     value->>'$[3][2]', value->>'$[4][0]', value->>'$[4][1]'
                 FROM json_each($1) WHERE true"
            ))
            .bind(value::json_text(&rows))
            .execute(&mut **tx)
            .await?;
        }
        Tx::Postgres(tx) => {
            let of = |word: fn(&Conflict) -> String| column(rows, move |(_, p)| word(&p.conflict));
            sqlx::query(upsert!(
                "SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
                     $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
                     $12::text[], $13::bigint[], $14::bigint[], $15::text[], $16::text[],
                     $17::bigint[], $18::bigint[], $19::text[])"
            ))
            .bind(column(rows, |(project, _)| *project))
            .bind(of(|c| c.id.to_string()))
            .bind(of(|c| c.user.clone()))
            .bind(of(|c| c.client.clone()))
            .bind(of(|c| c.op_id.to_string()))
            .bind(of(|c| c.entity.kind.to_string()))
            .bind(of(|c| c.entity.id.to_string()))
            .bind(of(|c| value::from_word(&c.kind)))
            .bind(of(|c| value::from_word(&c.op_kind)))
            .bind(of(|c| value::from_word(&c.strategy)))
            .bind(of(|c| c.outcome.as_str().to_owned()))
            .bind(of(|c| value::from_word(&c.state)))
            .bind(column(rows, |(_, p)| value::from_seq(p.conflict.base)))
            .bind(column(rows, |(_, p)| value::from_seq(p.conflict.server_version)))
            .bind(of(|c| value::json_text(&c.fields)))
            .bind(column(rows, |(_, p)| op(p)))
            .bind(column(rows, |(_, p)| p.conflict.created_at))
            .bind(column(rows, |(_, p)| p.conflict.resolved_at))
            .bind(column(rows, |(_, p)| p.conflict.resolved_by.as_ref().map(ToString::to_string)))
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}
