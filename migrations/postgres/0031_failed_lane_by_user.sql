-- no-transaction
-- The same for a user.
CREATE INDEX CONCURRENTLY sync_queue_lane_by_user
    ON sync_queue (project, user_id, (COALESCE(lane, at * 4096)), op_id) WHERE op IS NOT NULL;
