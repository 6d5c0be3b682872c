-- no-transaction
-- The newest that wait for a decision, to tell again what the bus may have lost.
CREATE INDEX CONCURRENTLY conflict_log_open_by_age ON conflict_log (created_at) WHERE state = 'open';
