//! Pushes: claimed under a lease when they are due, disarmed by an acknowledgement.
//!
//! They are armed by [`Store::commit`], in the transaction of the change they are about.

use super::{DueIntent, Inner, Store, StoreError, value};
use crate::id::{ClientId, ProjectId, Seq, UserId};

const UPSERT_CURSOR: &str = "
    INSERT INTO device_cursors (user_id, client, project, acked, active, last_seen)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (user_id, client, project) DO UPDATE SET
        acked = CASE WHEN excluded.acked > device_cursors.acked
                THEN excluded.acked ELSE device_cursors.acked END,
        active = excluded.active, last_seen = excluded.last_seen";

const CANCEL: &str = "
    UPDATE push_intents SET state = 'canceled', updated_at = $4
    WHERE project = $1 AND user_id = $2 AND evt_seq <= $3 AND state = 'waiting'";

/// The due ones, the most urgent first, become the owner's until the lease ends. The alias of the
/// inner table is what PostgreSQL locks.
macro_rules! claim {
    ($lock:literal) => {
        concat!(
            "UPDATE push_intents SET state = 'claimed', owner = $1, not_before = $3,
                    updated_at = $2, fence = fence + 1
             WHERE id IN (
                SELECT i.id FROM push_intents i
                WHERE i.state IN ('waiting', 'claimed') AND i.not_before <= $2
                ORDER BY i.lane, i.not_before LIMIT $4 ",
            $lock,
            ") RETURNING id, nid, fence"
        )
    };
}

const CLAIMED: &str = "
    SELECT i.id, i.nid, i.project, i.user_id, i.lane, n.title, n.body, n.data, n.link, i.evt_seq, i.fence
    FROM push_intents i JOIN notifications n ON n.nid = i.nid
    WHERE i.owner = $1 AND i.state = 'claimed'";

const FINISH: &str = "
    UPDATE push_intents SET state = $3, updated_at = $4
    WHERE id = $1 AND fence = $2 AND state = 'claimed'";
