-- no-transaction
-- The oldest verdicts, to purge.
CREATE INDEX CONCURRENTLY sync_queue_by_age ON sync_queue (at);
