-- Who is to hear of a change, the push that follows, and the acknowledgements that disarm it.

CREATE TABLE notifications (
    nid        TEXT    NOT NULL PRIMARY KEY,
    project    TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    evt_seq    INTEGER NOT NULL,
    title      TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    data       TEXT,
    link       TEXT,
    lane       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- state: waiting, claimed, canceled, or how it ended.
-- not_before: when it is due; while claimed, when the lease ends. Lanes sort by urgency as they are.
CREATE TABLE push_intents (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    nid        TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    evt_seq    INTEGER NOT NULL,
    lane       TEXT    NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'waiting',
    not_before INTEGER NOT NULL,
    owner      TEXT,
    fence      INTEGER NOT NULL DEFAULT 0,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX push_intents_due ON push_intents (lane, not_before) WHERE state IN ('waiting', 'claimed');
CREATE INDEX push_intents_waiting ON push_intents (project, user_id, evt_seq) WHERE state = 'waiting';

CREATE TABLE device_cursors (
    user_id   TEXT    NOT NULL,
    client    TEXT    NOT NULL,
    project   TEXT    NOT NULL,
    acked     INTEGER NOT NULL,
    active    INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    PRIMARY KEY (user_id, client, project)
) STRICT, WITHOUT ROWID;
