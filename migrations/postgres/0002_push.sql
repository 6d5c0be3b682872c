-- Who is to hear of a change, the push that follows, and the acknowledgements that disarm it.

CREATE TABLE notifications (
    nid        TEXT COLLATE "C" PRIMARY KEY,
    project    TEXT COLLATE "C" NOT NULL,
    user_id    TEXT COLLATE "C" NOT NULL,
    evt_seq    BIGINT           NOT NULL,
    title      TEXT             NOT NULL,
    body       TEXT             NOT NULL,
    data       TEXT,
    link       TEXT,
    lane       TEXT             NOT NULL,
    created_at BIGINT           NOT NULL
);

-- state: waiting, claimed, canceled, or how it ended.
-- not_before: when it is due; while claimed, when the lease ends. Lanes sort by urgency as they are.
CREATE TABLE push_intents (
    id         BIGINT           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nid        TEXT COLLATE "C" NOT NULL,
    project    TEXT COLLATE "C" NOT NULL,
    user_id    TEXT COLLATE "C" NOT NULL,
    evt_seq    BIGINT           NOT NULL,
    lane       TEXT             NOT NULL,
    state      TEXT             NOT NULL DEFAULT 'waiting',
    not_before BIGINT           NOT NULL,
    owner      TEXT,
    fence      BIGINT           NOT NULL DEFAULT 0,
    updated_at BIGINT           NOT NULL
);
CREATE INDEX push_intents_due ON push_intents (lane, not_before) WHERE state IN ('waiting', 'claimed');
CREATE INDEX push_intents_waiting ON push_intents (project, user_id, evt_seq) WHERE state = 'waiting';

CREATE TABLE device_cursors (
    user_id   TEXT COLLATE "C" NOT NULL,
    client    TEXT COLLATE "C" NOT NULL,
    project   TEXT COLLATE "C" NOT NULL,
    acked     BIGINT           NOT NULL,
    active    BOOLEAN          NOT NULL,
    last_seen BIGINT           NOT NULL,
    PRIMARY KEY (user_id, client, project)
);
