-- no-transaction
-- Verdicts of what was tried again lately, to tell again what the bus may have lost.
CREATE INDEX CONCURRENTLY sync_queue_retried ON sync_queue (at) WHERE attempts > 1;
