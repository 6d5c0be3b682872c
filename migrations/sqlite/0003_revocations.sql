-- Tokens, sessions and users that are no longer let in, until the last such token has expired.

CREATE TABLE revocations (
    body       TEXT    PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
