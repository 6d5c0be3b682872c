-- no-transaction
-- The failed lane of a project, in its order; what an older binary stored has no place but its time.
CREATE INDEX CONCURRENTLY sync_queue_lane
    ON sync_queue (project, (COALESCE(lane, at * 4096)), op_id) WHERE op IS NOT NULL;
