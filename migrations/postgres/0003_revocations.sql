-- Tokens, sessions and users that are no longer let in, until the last such token has expired.

CREATE TABLE revocations (
    body       TEXT COLLATE "C" PRIMARY KEY,
    expires_at BIGINT           NOT NULL
);
