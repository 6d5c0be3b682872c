//! The rows into PostgreSQL: a column is an array, as the hub sends it.

use anyhow::Result;
use sqlx::{Connection, PgConnection};

use super::Rows;
use super::ops::Row;

pub(crate) async fn open(url: &str) -> Result<PgConnection> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query("INSERT INTO sync_head (project, epoch, head_seq) VALUES ('bench', 'bare', 0)")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

pub(crate) async fn commit(
    c: &mut PgConnection,
    batch: &[Row],
    run: usize,
    rows: Rows,
) -> Result<()> {
    let mut tx = c.begin().await?;
    sqlx::query("SELECT head_seq FROM sync_head WHERE project = 'bench' FOR UPDATE")
        .execute(&mut *tx)
        .await?;
    changes(&mut tx, batch).await?;
    sqlx::query("UPDATE sync_head SET head_seq = $1 WHERE project = 'bench'")
        .bind(batch.last().map(|row| row.seq))
        .execute(&mut *tx)
        .await?;
    if rows == Rows::All {
        entities(&mut tx, batch).await?;
        verdicts(&mut tx, batch).await?;
        requests(&mut tx, batch, run).await?;
    }
    Ok(tx.commit().await?)
}

fn column<'r, R, T>(batch: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    batch.iter().map(of).collect()
}

async fn requests(c: &mut PgConnection, batch: &[Row], run: usize) -> Result<()> {
    let requests: Vec<&[Row]> = batch.chunks(run).collect();
    let size = |ops: &&[Row]| ops.iter().map(|row| row.patch.len() as i64).sum::<i64>();
    sqlx::query(
        "INSERT INTO sync_log (project, id, kind, user_id, client, ops, bytes, applied, merged, noop,
             superseded, conflict, rejected, replayed, duration_ms, result, at)
         SELECT 'bench', v.id, 'write', v.user_id, v.client, v.ops, v.bytes, v.ops, 0, 0, 0, 0, 0, 0, 1,
             'ok', v.at
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
             AS v (id, user_id, client, ops, bytes, at)",
    )
    .bind(column(&requests, |ops| ops[0].request()))
    .bind(column(&requests, |ops| ops[0].user.clone()))
    .bind(column(&requests, |ops| ops[0].client.clone()))
    .bind(column(&requests, |ops| ops.len() as i64))
    .bind(column(&requests, size))
    .bind(column(&requests, |ops| ops[0].at))
    .execute(c)
    .await?;
    Ok(())
}

async fn changes(c: &mut PgConnection, batch: &[Row]) -> Result<()> {
    sqlx::query(
        "INSERT INTO changes (project, seq, type, id, kind, patch, prev, actor, client, op_id, at)
         SELECT 'bench', v.seq, 'bench', v.id, v.kind, v.patch, v.prev, v.actor, v.client, v.op_id, v.at
         FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
             $7::text[], $8::text[], $9::bigint[])
             AS v (seq, id, kind, patch, prev, actor, client, op_id, at)",
    )
    .bind(column(batch, |row| row.seq))
    .bind(column(batch, |row| row.id.as_str()))
    .bind(column(batch, |row| row.kind))
    .bind(column(batch, |row| row.patch.as_str()))
    .bind(column(batch, |row| row.prev))
    .bind(column(batch, |row| row.user.as_str()))
    .bind(column(batch, |row| row.client.as_str()))
    .bind(column(batch, |row| row.op_id.as_str()))
    .bind(column(batch, |row| row.at))
    .execute(c)
    .await?;
    Ok(())
}

async fn entities(c: &mut PgConnection, batch: &[Row]) -> Result<()> {
    sqlx::query(
        "INSERT INTO entities (project, type, id, version, data, writer, writer_base, stamps)
         SELECT 'bench', 'bench', v.id, v.version, v.data, v.writer, v.version, v.stamps
         FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
             AS v (id, version, data, writer, stamps)
         ON CONFLICT (project, type, id) DO UPDATE SET version = excluded.version,
             data = excluded.data, writer = excluded.writer, writer_base = excluded.writer_base,
             stamps = excluded.stamps",
    )
    .bind(column(batch, |row| row.id.as_str()))
    .bind(column(batch, |row| row.seq))
    .bind(column(batch, |row| row.data.as_str()))
    .bind(column(batch, |row| row.client.as_str()))
    .bind(column(batch, |row| row.stamps.as_str()))
    .execute(c)
    .await?;
    Ok(())
}

async fn verdicts(c: &mut PgConnection, batch: &[Row]) -> Result<()> {
    sqlx::query(
        "INSERT INTO sync_queue (project, op_id, payload_hash, outcome, verdict, client, user_id, type,
             entity_id, base, at)
         SELECT 'bench', v.op_id, v.hash, 'applied', v.verdict, v.client, v.user_id, 'bench',
             v.entity_id, v.base, v.at
         FROM unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[],
             $7::bigint[], $8::bigint[])
             AS v (op_id, hash, verdict, client, user_id, entity_id, base, at)",
    )
    .bind(column(batch, |row| row.op_id.as_str()))
    .bind(column(batch, |row| row.hash.as_slice()))
    .bind(column(batch, |row| row.verdict.as_str()))
    .bind(column(batch, |row| row.client.as_str()))
    .bind(column(batch, |row| row.user.as_str()))
    .bind(column(batch, |row| row.id.as_str()))
    .bind(column(batch, |row| row.prev))
    .bind(column(batch, |row| row.at))
    .execute(c)
    .await?;
    Ok(())
}
