-- The key that `push_tokens_of_user` replaces let one user take the place of another's installation. SQLite takes a
-- key out of a table only by making the table anew; a number that was a device's must not become another's.
CREATE TABLE push_tokens_anew (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id         TEXT NOT NULL,
    client          TEXT NOT NULL,
    provider        TEXT NOT NULL,
    platform        TEXT   NOT NULL,
    token           TEXT   NOT NULL,
    token_hash      TEXT NOT NULL,
    scope           TEXT,
    locale          TEXT,
    tz              TEXT,
    app_version     TEXT,
    model           TEXT,
    state           TEXT   NOT NULL,
    reason          TEXT,
    state_at        INTEGER NOT NULL,
    registered_at   INTEGER NOT NULL,
    last_success_at INTEGER,
    UNIQUE (provider, token_hash)
) STRICT;
INSERT INTO push_tokens_anew SELECT id, user_id, client, provider, platform, token, token_hash, scope, locale, tz,
    app_version, model, state, reason, state_at, registered_at, last_success_at FROM push_tokens;
DELETE FROM sqlite_sequence WHERE name = 'push_tokens_anew';
INSERT INTO sqlite_sequence (name, seq) SELECT 'push_tokens_anew', seq FROM sqlite_sequence WHERE name = 'push_tokens';
DROP TABLE push_tokens;
ALTER TABLE push_tokens_anew RENAME TO push_tokens;
CREATE INDEX push_tokens_user ON push_tokens (user_id);
CREATE UNIQUE INDEX push_tokens_of_user ON push_tokens (user_id, client, provider);
