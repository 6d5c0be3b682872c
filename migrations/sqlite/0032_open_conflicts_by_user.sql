-- What waits for a user's decision, to count.
CREATE INDEX conflict_log_open_by_user
    ON conflict_log (project, user_id) WHERE state = 'open';
