-- What conflict detection per field, identity mapping and the failed lane need.
-- `stamps` says who set each field last; `writer` and `writer_base` are kept for older binaries.

ALTER TABLE entities ADD COLUMN stamps TEXT NOT NULL DEFAULT '{}';

-- op: the operation's text, kept while it is in the failed lane.
ALTER TABLE sync_queue ADD COLUMN user_id   TEXT    NOT NULL DEFAULT '';
ALTER TABLE sync_queue ADD COLUMN type      TEXT    NOT NULL DEFAULT '';
ALTER TABLE sync_queue ADD COLUMN entity_id TEXT    NOT NULL DEFAULT '';
ALTER TABLE sync_queue ADD COLUMN base      INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sync_queue ADD COLUMN attempts  INTEGER NOT NULL DEFAULT 1;
ALTER TABLE sync_queue ADD COLUMN code      TEXT;
ALTER TABLE sync_queue ADD COLUMN op        TEXT;
CREATE INDEX sync_queue_failed ON sync_queue (project, user_id, at, op_id) WHERE op IS NOT NULL;

-- The id the server gave to what a client made under a name of its own.
CREATE TABLE id_mappings (
    project   TEXT    NOT NULL,
    user_id   TEXT    NOT NULL,
    client    TEXT    NOT NULL,
    type      TEXT    NOT NULL,
    local_id  TEXT    NOT NULL,
    server_id TEXT    NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (project, user_id, client, type, local_id)
) STRICT, WITHOUT ROWID;

-- id: a UUIDv7, so it sorts by time. state: open (parked until it is resolved), resolved, or closed (decided at once).
-- fields: a JSON list of what was at stake. op: the parked operation's text.
CREATE TABLE conflict_log (
    project        TEXT    NOT NULL,
    id             TEXT    NOT NULL,
    user_id        TEXT    NOT NULL,
    client         TEXT    NOT NULL,
    op_id          TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    entity_id      TEXT    NOT NULL,
    kind           TEXT    NOT NULL,
    op_kind        TEXT    NOT NULL,
    strategy       TEXT    NOT NULL,
    outcome        TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    base           INTEGER NOT NULL,
    server_version INTEGER NOT NULL,
    fields         TEXT    NOT NULL,
    op             TEXT,
    created_at     INTEGER NOT NULL,
    resolved_at    INTEGER,
    resolved_by    TEXT,
    PRIMARY KEY (project, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX conflict_log_by_user ON conflict_log (project, user_id, id);
CREATE INDEX conflict_log_by_entity ON conflict_log (project, type, entity_id, id);
CREATE INDEX conflict_log_open ON conflict_log (project, type, entity_id) WHERE state = 'open';
