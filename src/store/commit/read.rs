//! The first half of a commit: lock the heads, then read what the operations are about.
//!
//! The reads are statements of their own after the lock: under PostgreSQL's READ COMMITTED a statement sees
//! what was committed when it began, and it must begin when nobody else can write any more.

use std::collections::HashMap;

use super::super::entities::StoredEntity;
use super::super::heads::{BEGIN_SEQUENCE, new_epoch};
use super::super::{Batch, PendingOp, Recorded, Snapshot, StoreError, value};
use super::write::column;
use super::{Tx, conflicts};
use crate::id::EntityRef;

/// `project, epoch, head_seq`
type HeadRow = (String, String, i64);
/// `project, op_id, payload_hash, user_id, outcome, verdict, kept`
type VerdictRow = (String, String, Vec<u8>, String, String, String, bool);

#[derive(sqlx::FromRow)]
struct EntityOfProject {
    project: String,
    #[sqlx(flatten)]
    entity: StoredEntity,
}

/// Locks the batches' projects, beginning their sequences where needed, and reads the state the plan
/// decides on, by project; of the verdicts only if it is to `look` for them.
pub(super) async fn snapshots(
    tx: &mut Tx,
    batches: &[Batch<'_>],
    look: bool,
) -> Result<HashMap<String, Snapshot>, StoreError> {
    let mut snapshots = HashMap::with_capacity(batches.len());
    for (project, epoch, head) in lock_heads(tx, batches).await? {
        let snapshot = Snapshot {
            project: value::name(&project)?,
            head: value::seq(head),
            epoch: value::epoch(&epoch)?,
            verdicts: HashMap::new(),
            entities: HashMap::new(),
            mappings: HashMap::new(),
            conflicts: HashMap::new(),
            members: HashMap::new(),
        };
        snapshots.insert(project, snapshot);
    }
    let known = if look { verdicts(tx, batches).await? } else { Vec::new() };
    for (project, op_id, hash, user, outcome, verdict, kept) in known {
        let recorded = Recorded {
            user,
            outcome: value::word(&outcome)?,
            payload_hash: hash
                .try_into()
                .map_err(|_| StoreError::unreadable("payload hash", &"not 32 bytes"))?,
            verdict: value::raw_json(verdict)?,
            kept,
        };
        if let Some(snapshot) = snapshots.get_mut(&project) {
            snapshot.verdicts.insert(value::name(&op_id)?, recorded);
        }
    }
    for (project, role, count) in members(tx, batches).await? {
        if let Some(snapshot) = snapshots.get_mut(&project) {
            snapshot.members.insert(value::name(&role)?, u64::try_from(count).unwrap_or(0));
        }
    }
    conflicts::mappings(tx, batches, &mut snapshots).await?;
    conflicts::conflicts(tx, batches, &mut snapshots).await?;
    for EntityOfProject { project, entity } in entities(tx, batches, &snapshots).await? {
        let (key, row) = entity.read()?;
        if let Some(snapshot) = snapshots.get_mut(&project) {
            snapshot.entities.insert(key, row);
        }
    }
    Ok(snapshots)
}

/// How many members with each role the projects have in which a client wants to notify some: project, role, count.
async fn members(
    tx: &mut Tx,
    batches: &[Batch<'_>],
) -> Result<Vec<(String, String, i64)>, StoreError> {
    const COUNT: &str = "
        SELECT project, role, count(*) FROM memberships
        WHERE role IS NOT NULL AND project IN (SELECT value->>0 FROM ROWS($1))
        GROUP BY project, role";
    let crowd = |op: &PendingOp| {
        let notify = op.op.notify.as_ref().filter(|_| !op.upsert);
        notify.is_some_and(|notify| notify.members || !notify.roles.is_empty())
    };
    let asking = batches.iter().filter(|batch| batch.ops.iter().any(crowd));
    let projects: Vec<_> = asking.map(|batch| [batch.project]).collect();
    if projects.is_empty() {
        return Ok(Vec::new());
    }
    let (dialect, projects) = (tx.dialect(), value::json_text(&projects));
    let rows = on_tx!(tx, |db| {
        sqlx::query_as(dialect.sql(COUNT)).bind(projects).fetch_all(&mut *db).await?
    });
    Ok(rows)
}

async fn lock_heads(tx: &mut Tx, batches: &[Batch<'_>]) -> Result<Vec<HeadRow>, StoreError> {
    let mut projects: Vec<&str> = batches.iter().map(|batch| batch.project.as_str()).collect();
    projects.sort_unstable();
    let mut heads = select_heads(tx, &projects).await?;
    if heads.len() < projects.len() {
        // `ON CONFLICT DO NOTHING` waits for another transaction that begins the same sequence.
        for project in projects.iter().filter(|p| !heads.iter().any(|(known, ..)| known == *p)) {
            on_tx!(tx, |db| sqlx::query(BEGIN_SEQUENCE)
                .bind(*project)
                .bind(new_epoch())
                .execute(db)
                .await
                .map(|_| ()))?;
        }
        heads = select_heads(tx, &projects).await?;
    }
    Ok(heads)
}

async fn select_heads(tx: &mut Tx, projects: &[&str]) -> Result<Vec<HeadRow>, StoreError> {
    let rows = match tx {
        // `BEGIN IMMEDIATE` holds the one lock there is.
        Tx::Sqlite(tx) => {
            sqlx::query_as(
                "SELECT project, epoch, head_seq FROM sync_head
                 WHERE project IN (SELECT value FROM json_each($1))",
            )
            .bind(value::json_text(&projects))
            .fetch_all(&mut **tx)
            .await?
        }
        // In one order everywhere, so that two commits cannot wait for each other.
        Tx::Postgres(tx) => {
            sqlx::query_as(
                "SELECT project, epoch, head_seq FROM sync_head
                 WHERE project = ANY($1) ORDER BY project FOR UPDATE",
            )
            .bind(projects)
            .fetch_all(&mut **tx)
            .await?
        }
    };
    Ok(rows)
}

async fn verdicts(tx: &mut Tx, batches: &[Batch<'_>]) -> Result<Vec<VerdictRow>, StoreError> {
    // Of what is replaced as well; named twice, it is read twice.
    let keys: Vec<(&str, &str)> = batches
        .iter()
        .flat_map(|batch| {
            let op_ids =
                batch.ops.iter().flat_map(|op| [&op.op.op_id].into_iter().chain(&op.op.replaces));
            op_ids.map(|op_id| (batch.project.as_str(), op_id.as_str()))
        })
        .collect();
    let rows = match tx {
        Tx::Sqlite(tx) => {
            sqlx::query_as(
                "SELECT q.project, q.op_id, q.payload_hash, q.user_id, q.outcome, q.verdict,
                     q.op IS NOT NULL
                 FROM jsonb_each($1) k CROSS JOIN sync_queue q
                 WHERE q.project = k.value->>0 AND q.op_id = k.value->>1",
            )
            .bind(value::json_text(&keys))
            .fetch_all(&mut **tx)
            .await?
        }
        Tx::Postgres(tx) => {
            let (projects, op_ids): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            sqlx::query_as(
                "SELECT q.project, q.op_id, q.payload_hash, q.user_id, q.outcome, q.verdict,
                     q.op IS NOT NULL
                 FROM unnest($1::text[], $2::text[]) AS k (project, op_id)
                 JOIN sync_queue q USING (project, op_id)",
            )
            .bind(projects)
            .bind(op_ids)
            .fetch_all(&mut **tx)
            .await?
        }
    };
    Ok(rows)
}

async fn entities(
    tx: &mut Tx,
    batches: &[Batch<'_>],
    snapshots: &HashMap<String, Snapshot>,
) -> Result<Vec<EntityOfProject>, StoreError> {
    let key = |batch: &Batch<'_>, op: &'_ PendingOp| {
        let project = batch.project.as_str();
        // What a client named itself and nobody has mapped does not exist yet.
        let id = match &op.op.id {
            EntityRef::Id(id) => id.clone(),
            EntityRef::Local(local) => {
                let name = op.local_name(&op.op.entity_type, local);
                snapshots.get(project)?.mappings.get(&name)?.clone()
            }
        };
        Some((project.to_owned(), op.op.entity_type.clone(), id))
    };
    let of_batch = |batch: &Batch<'_>| -> Vec<_> {
        batch.ops.iter().filter_map(|op| key(batch, op)).collect()
    };
    let mut keys: Vec<_> = batches.iter().flat_map(of_batch).collect();
    keys.sort_unstable();
    keys.dedup();
    let rows = match tx {
        Tx::Sqlite(tx) => {
            sqlx::query_as(
                "SELECT e.*, e.deleted_at IS NOT NULL AS deleted
                 FROM jsonb_each($1) k CROSS JOIN entities e
                 WHERE e.project = k.value->>0 AND e.type = k.value->>1 AND e.id = k.value->>2",
            )
            .bind(value::json_text(&keys))
            .fetch_all(&mut **tx)
            .await?
        }
        Tx::Postgres(tx) => {
            sqlx::query_as(
                "SELECT e.*, e.deleted_at IS NOT NULL AS deleted
                 FROM unnest($1::text[], $2::text[], $3::text[]) AS k (project, type, id)
                 JOIN entities e USING (project, type, id)",
            )
            .bind(column(&keys, |(project, ..)| project.as_str()))
            .bind(column(&keys, |(_, kind, _)| kind.as_str()))
            .bind(column(&keys, |(.., id)| id.as_str()))
            .fetch_all(&mut **tx)
            .await?
        }
    };
    Ok(rows)
}
