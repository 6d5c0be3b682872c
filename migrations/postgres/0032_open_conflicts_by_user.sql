-- no-transaction
-- What waits for a user's decision, to count; with `state` SQLite reads nothing else.
CREATE INDEX CONCURRENTLY conflict_log_open_by_user
    ON conflict_log (project, state, user_id) WHERE state = 'open';
