-- The log of each project, what it adds up to, and the verdicts that make writes safe to repeat.
-- JSON is kept as text: a document has to come back byte for byte.

-- Locked first by every transaction that writes the project's log.
CREATE TABLE sync_head (
    project         TEXT    PRIMARY KEY,
    epoch           TEXT    NOT NULL,
    head_seq        INTEGER NOT NULL,
    log_floor       INTEGER NOT NULL DEFAULT 0,
    tombstone_floor INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    project TEXT    NOT NULL,
    seq     INTEGER NOT NULL,
    type    TEXT    NOT NULL,
    id      TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    patch   TEXT,
    prev    INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    client  TEXT    NOT NULL,
    op_id   TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (project, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE entities (
    project         TEXT    NOT NULL,
    type            TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    data            TEXT    NOT NULL,
    deleted_at      INTEGER,
    writer          TEXT    NOT NULL,
    writer_base     INTEGER NOT NULL,
    source_versions TEXT    NOT NULL DEFAULT '{}',
    PRIMARY KEY (project, type, id)
) STRICT;
CREATE INDEX entities_by_version ON entities (project, version);

CREATE TABLE sync_queue (
    project      TEXT    NOT NULL,
    op_id        TEXT    NOT NULL,
    payload_hash BLOB    NOT NULL,
    outcome      TEXT    NOT NULL,
    verdict      TEXT    NOT NULL,
    client       TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (project, op_id)
) STRICT, WITHOUT ROWID;
