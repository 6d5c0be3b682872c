-- Pushes per user and minute, so that a cap is about any hour and not about those of the clock. `push_counts` is
-- written by the release before only.
CREATE TABLE push_minutes (
    user_id TEXT NOT NULL,
    minute  INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (user_id, minute)
) STRICT;
