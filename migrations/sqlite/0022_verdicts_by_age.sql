-- The oldest verdicts, to purge.
CREATE INDEX sync_queue_by_age ON sync_queue (at);
