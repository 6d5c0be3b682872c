-- What the failed lane needs to try an operation again as it was sent, and the log of requests.

-- role: the one it was sent under. edited_at: when the edit was made, corrected by what the client's clock was
-- off. lane: its place in the failed lane, kept when it is tried again; an older binary writes none.
ALTER TABLE sync_queue
    ADD COLUMN role      TEXT   NOT NULL DEFAULT '',
    ADD COLUMN edited_at BIGINT,
    ADD COLUMN lane      BIGINT;
-- 0030 and 0031 take its place.
DROP INDEX sync_queue_failed;

-- One row for each request that wrote. id: a UUIDv7, so it sorts by time. kind: write or retry.
-- result: ok, or the code of the error that was answered.
CREATE TABLE sync_log (
    project     TEXT COLLATE "C" NOT NULL,
    id          TEXT COLLATE "C" NOT NULL,
    kind        TEXT             NOT NULL,
    user_id     TEXT COLLATE "C" NOT NULL,
    client      TEXT             NOT NULL,
    device      TEXT,
    ops         BIGINT           NOT NULL,
    bytes       BIGINT           NOT NULL,
    applied     BIGINT           NOT NULL,
    merged      BIGINT           NOT NULL,
    noop        BIGINT           NOT NULL,
    superseded  BIGINT           NOT NULL,
    conflict    BIGINT           NOT NULL,
    rejected    BIGINT           NOT NULL,
    replayed    BIGINT           NOT NULL,
    duration_ms BIGINT           NOT NULL,
    result      TEXT             NOT NULL,
    at          BIGINT           NOT NULL,
    PRIMARY KEY (project, id)
);
CREATE INDEX sync_log_by_user ON sync_log (project, user_id, id);
CREATE INDEX sync_log_by_time ON sync_log (at);
