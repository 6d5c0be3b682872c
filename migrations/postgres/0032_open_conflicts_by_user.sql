-- no-transaction
-- What waits for a user's decision, to count.
CREATE INDEX CONCURRENTLY conflict_log_open_by_user
    ON conflict_log (project, user_id) WHERE state = 'open';
