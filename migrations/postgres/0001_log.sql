-- The log of each project, what it adds up to, and the verdicts that make writes safe to repeat.
-- JSON is kept as text: a document has to come back byte for byte, and jsonb refuses \u0000.
-- Keys sort by bytes, so no change of the system's locale can spoil an index.

-- Locked first by every transaction that writes the project's log. Narrow, and updated in place.
CREATE TABLE sync_head (
    project         TEXT COLLATE "C" PRIMARY KEY,
    epoch           TEXT             NOT NULL,
    head_seq        BIGINT           NOT NULL,
    log_floor       BIGINT           NOT NULL DEFAULT 0,
    tombstone_floor BIGINT           NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE changes (
    project TEXT COLLATE "C" NOT NULL,
    seq     BIGINT           NOT NULL,
    type    TEXT COLLATE "C" NOT NULL,
    id      TEXT COLLATE "C" NOT NULL,
    kind    TEXT             NOT NULL,
    patch   TEXT,
    prev    BIGINT           NOT NULL,
    actor   TEXT             NOT NULL,
    client  TEXT             NOT NULL,
    op_id   TEXT COLLATE "C" NOT NULL,
    at      BIGINT           NOT NULL,
    PRIMARY KEY (project, seq)
);

CREATE TABLE entities (
    project         TEXT COLLATE "C" NOT NULL,
    type            TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    version         BIGINT           NOT NULL,
    data            TEXT             NOT NULL,
    deleted_at      BIGINT,
    writer          TEXT             NOT NULL,
    writer_base     BIGINT           NOT NULL,
    source_versions TEXT             NOT NULL DEFAULT '{}',
    PRIMARY KEY (project, type, id)
);
CREATE INDEX entities_by_version ON entities (project, version);

CREATE TABLE sync_queue (
    project      TEXT COLLATE "C" NOT NULL,
    op_id        TEXT COLLATE "C" NOT NULL,
    payload_hash BYTEA            NOT NULL,
    outcome      TEXT             NOT NULL,
    verdict      TEXT             NOT NULL,
    client       TEXT             NOT NULL,
    at           BIGINT           NOT NULL,
    PRIMARY KEY (project, op_id)
);
