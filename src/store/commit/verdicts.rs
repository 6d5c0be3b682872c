//! Verdicts, and beside a rejected one what it takes to try the operation again: the failed lane.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::{Given, PendingOp, StoreError, lane, queue, value};
use super::Tx;
use super::write::column;
use crate::id::OpId;
use crate::protocol::op::{Op, Outcome};

/// Stores the first verdict of each operation. If one of them has a verdict already, the transaction is spoiled:
/// `false`.
pub(super) async fn claim(
    tx: &mut Tx,
    rows: &[(&str, &PendingOp, &Given)],
    now_ms: i64,
) -> Result<bool, StoreError> {
    if rows.is_empty() {
        return Ok(true);
    }
    let count = rows.len() as u64;
    let failed = failed(tx, rows, now_ms).await?;
    let stored = match tx {
        Tx::Sqlite(tx) => {
            let rows: Vec<_> = rows
                .iter()
                .zip(&failed)
                .map(|((project, op, given), failed)| {
                    let PendingOp { op: Op { op_id, entity_type, .. }, actor, .. } = op;
                    let base = queue::base(op);
                    let (hash, verdict) = (hex::encode(op.payload_hash), given.verdict.get());
                    let (outcome, code, id) = (given.outcome.as_str(), &given.code, &given.id);
                    let (client, user) = (&actor.client, &actor.user);
                    let Failed { text, role, edited_at, place } = failed;
                    #[rustfmt::skip]
                    let row = (
                        project, op_id, hash, outcome, verdict, client, user, entity_type, id, base,
                        code, text, role, edited_at, place,
                    );
                    row
                })
                .collect();
            sqlx::query(
                "INSERT INTO sync_queue (project, op_id, payload_hash, outcome, verdict, client,
                     user_id, type, entity_id, base, code, op, role, edited_at, lane, at)
                 SELECT value->>0, value->>1, unhex(value->>2), value->>3, value->>4, value->>5,
                     value->>6, value->>7, value->>8, value->>9, value->>10, value->>11,
                     value->>12, value->>13, value->>14, $2
                 FROM jsonb_each($1) WHERE true ON CONFLICT DO NOTHING",
            )
            .bind(value::json_text(&rows))
            .bind(now_ms)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        }
        Tx::Postgres(tx) => sqlx::query(
            "INSERT INTO sync_queue (project, op_id, payload_hash, outcome, verdict, client,
                     user_id, type, entity_id, base, code, op, role, edited_at, lane, at)
                 SELECT v.*, $16 FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[],
                     $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
                     $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[]) v
                 ON CONFLICT DO NOTHING",
        )
        .bind(column(rows, |(project, ..)| *project))
        .bind(column(rows, |(_, op, _)| op.op.op_id.as_str()))
        .bind(column(rows, |(_, op, _)| op.payload_hash.as_slice()))
        .bind(column(rows, |(.., given)| given.outcome.as_str()))
        .bind(column(rows, |(.., given)| given.verdict.get()))
        .bind(column(rows, |(_, op, _)| op.actor.client.as_str()))
        .bind(column(rows, |(_, op, _)| op.actor.user.as_str()))
        .bind(column(rows, |(_, op, _)| op.op.entity_type.as_str()))
        .bind(column(rows, |(.., given)| given.id.as_str()))
        .bind(column(rows, |(_, op, _)| queue::base(op)))
        .bind(column(rows, |(.., given)| given.code.as_deref()))
        .bind(column(&failed, |failed| failed.text.as_deref()))
        .bind(column(&failed, |failed| failed.role))
        .bind(column(&failed, |failed| failed.edited_at))
        .bind(column(&failed, |failed| failed.place))
        .bind(now_ms)
        .execute(&mut **tx)
        .await?
        .rows_affected(),
    };
    Ok(stored == count)
}

/// The verdict of an operation that was rejected and was tried again. It keeps its place in the lane; one that
/// was taken out meanwhile stays out.
pub(super) async fn verdict_again(
    tx: &mut Tx,
    project: &str,
    op: &PendingOp,
    given: &Given,
    now_ms: i64,
) -> Result<(), StoreError> {
    const AGAIN: &str = "
        UPDATE sync_queue SET outcome = $3, verdict = $4, entity_id = $5, code = $6,
            op = CASE WHEN op IS NULL THEN NULL ELSE $7 END,
            lane = COALESCE(lane, at * 4096), at = $8, attempts = attempts + 1
        WHERE project = $1 AND op_id = $2";
    let failed = Failed::of(op, given);
    on_tx!(tx, |db| sqlx::query(AGAIN)
        .bind(project)
        .bind(op.op.op_id.as_str())
        .bind(given.outcome.as_str())
        .bind(given.verdict.get())
        .bind(given.id.as_str())
        .bind(given.code.as_deref())
        .bind(failed.text)
        .bind(now_ms)
        .execute(db)
        .await
        .map(|_| ()))?;
    Ok(())
}

/// Takes an operation out of the failed lane; its verdict stays.
pub(super) async fn leave_lane(tx: &mut Tx, project: &str, op_id: &OpId) -> Result<(), StoreError> {
    const LEAVE: &str = "UPDATE sync_queue SET op = NULL WHERE project = $1 AND op_id = $2";
    on_tx!(tx, |db| sqlx::query(LEAVE)
        .bind(project)
        .bind(op_id.as_str())
        .execute(db)
        .await
        .map(|_| ()))?;
    Ok(())
}

/// What goes to the failed lane, with places in the order of the decisions, so that they can be tried again
/// in it.
async fn failed<'a>(
    tx: &mut Tx,
    rows: &[(&str, &'a PendingOp, &Given)],
    now_ms: i64,
) -> Result<Vec<Failed<'a>>, StoreError> {
    let mut all = Vec::with_capacity(rows.len());
    let mut next: HashMap<&str, i64> = HashMap::new();
    for (project, op, given) in rows {
        let mut failed = Failed::of(op, given);
        if failed.text.is_some() {
            let next = match next.entry(project) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let last = on_tx!(tx, |db| sqlx::query_scalar(lane::LAST)
                        .bind(*project)
                        .fetch_optional(db)
                        .await)?;
                    entry.insert(lane::first_place(now_ms, last))
                }
            };
            failed.place = Some(*next);
            *next += 1;
        }
        all.push(failed);
    }
    Ok(all)
}

/// What is kept of an operation that goes to the failed lane; nothing of any other. A backend's does not go
/// there: it has an outbox of its own.
#[derive(Default)]
struct Failed<'a> {
    text: Option<String>,
    role: &'a str,
    edited_at: Option<i64>,
    place: Option<i64>,
}

impl<'a> Failed<'a> {
    fn of(op: &'a PendingOp, given: &Given) -> Self {
        if given.outcome != Outcome::Rejected || op.upsert {
            return Self::default();
        }
        let (text, role) = (Some(value::json_text(&op.op)), &*op.access.role);
        Self { text, role, edited_at: op.edited_at, place: None }
    }
}
