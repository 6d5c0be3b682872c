-- The oldest decided conflicts, to purge.
CREATE INDEX conflict_log_by_age ON conflict_log (created_at) WHERE state <> 'open';
