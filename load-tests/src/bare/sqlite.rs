//! The rows into SQLite: a table's rows are one JSON text, as the hub sends them.

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use super::Rows;
use super::ops::Row;

const CHANGES: &str = "
    INSERT INTO changes (project, seq, type, id, kind, patch, prev, actor, client, op_id, at)
    SELECT 'bench', value->>0, 'bench', value->>1, value->>2, value->>3, value->>4, value->>5, value->>6,
        value->>7, value->>8
    FROM jsonb_each($1)";
const ENTITIES: &str = "
    INSERT INTO entities (project, type, id, version, data, writer, writer_base, stamps)
    SELECT 'bench', 'bench', value->>0, value->>1, value->>2, value->>3, value->>1, value->>4
    FROM jsonb_each($1) WHERE true
    ON CONFLICT (project, type, id) DO UPDATE SET version = excluded.version, data = excluded.data,
        writer = excluded.writer, writer_base = excluded.writer_base, stamps = excluded.stamps";
const VERDICTS: &str = "
    INSERT INTO sync_queue (project, op_id, payload_hash, outcome, verdict, client, user_id, type,
        entity_id, base, at)
    SELECT 'bench', value->>0, unhex(value->>1), 'applied', value->>2, value->>3, value->>4, 'bench',
        value->>5, value->>6, value->>7
    FROM jsonb_each($1)";

const REQUESTS: &str = "
    INSERT INTO sync_log (project, id, kind, user_id, client, ops, bytes, applied, merged, noop,
        superseded, conflict, rejected, replayed, duration_ms, result, at)
    SELECT 'bench', value->>0, 'write', value->>1, value->>2, value->>3, value->>4, value->>3, 0, 0, 0, 0, 0,
        0, 1, 'ok', value->>5
    FROM jsonb_each($1)";

/// Opens the file as the hub opens it for its writer.
pub(crate) async fn open(path: &str) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-65536")
        .pragma("wal_autocheckpoint", "8192");
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query("INSERT INTO sync_head (project, epoch, head_seq) VALUES ('bench', 'bare', 0)")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

pub(crate) async fn commit(
    c: &mut SqliteConnection,
    batch: &[Row],
    run: usize,
    rows: Rows,
) -> Result<()> {
    let mut tx = c.begin_with("BEGIN IMMEDIATE").await?;
    let change =
        |r: &Row| json!([r.seq, r.id, r.kind, r.patch, r.prev, r.user, r.client, r.op_id, r.at]);
    insert(&mut tx, CHANGES, batch, change).await?;
    sqlx::query("UPDATE sync_head SET head_seq = $1 WHERE project = 'bench'")
        .bind(batch.last().map(|row| row.seq))
        .execute(&mut *tx)
        .await?;
    if rows == Rows::All {
        let entity = |r: &Row| json!([r.id, r.seq, r.data, r.client, r.stamps]);
        insert(&mut tx, ENTITIES, batch, entity).await?;
        let verdict = |r: &Row| {
            let hash: String = r.hash.iter().map(|byte| format!("{byte:02x}")).collect();
            json!([r.op_id, hash, r.verdict, r.client, r.user, r.id, r.prev, r.at])
        };
        insert(&mut tx, VERDICTS, batch, verdict).await?;
        let requests: Vec<&[Row]> = batch.chunks(run).collect();
        let request = |ops: &&[Row]| {
            let bytes: usize = ops.iter().map(|row| row.patch.len()).sum();
            json!([ops[0].request(), ops[0].user, ops[0].client, ops.len(), bytes, ops[0].at])
        };
        insert(&mut tx, REQUESTS, &requests, request).await?;
    }
    Ok(tx.commit().await?)
}

async fn insert<R>(
    c: &mut SqliteConnection,
    statement: &'static str,
    batch: &[R],
    row: impl Fn(&R) -> Value,
) -> Result<()> {
    let rows = Value::from_iter(batch.iter().map(row));
    sqlx::query(statement).bind(rows.to_string()).execute(c).await?;
    Ok(())
}
