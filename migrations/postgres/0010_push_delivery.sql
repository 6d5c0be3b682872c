-- Devices and their push tokens, the inbox, and what became of each push on each device.
-- Times are milliseconds since the Unix epoch by the database's clock. Lanes sort by urgency as they are.

CREATE TABLE push_tokens (
    id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         TEXT COLLATE "C" NOT NULL,
    client          TEXT COLLATE "C" NOT NULL,
    provider        TEXT COLLATE "C" NOT NULL,
    platform        TEXT   NOT NULL,
    token           TEXT   NOT NULL,
    token_hash      TEXT COLLATE "C" NOT NULL,
    scope           TEXT,
    locale          TEXT,
    tz              TEXT,
    app_version     TEXT,
    model           TEXT,
    state           TEXT   NOT NULL,
    reason          TEXT,
    state_at        BIGINT NOT NULL,
    registered_at   BIGINT NOT NULL,
    last_success_at BIGINT,
    UNIQUE (provider, token_hash),
    UNIQUE (client, provider)
);
CREATE INDEX push_tokens_user ON push_tokens (user_id);

ALTER TABLE notifications ADD COLUMN template TEXT;
ALTER TABLE notifications ADD COLUMN vars TEXT;
ALTER TABLE notifications ADD COLUMN collapse TEXT;
ALTER TABLE notifications ADD COLUMN category TEXT;
-- Not yet to be seen: a scheduled one becomes visible when its time comes.
ALTER TABLE notifications ADD COLUMN hidden BIGINT NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN seen_at BIGINT;
ALTER TABLE notifications ADD COLUMN read_at BIGINT;
CREATE INDEX notifications_inbox ON notifications (user_id, nid);
CREATE INDEX notifications_unread ON notifications (user_id, project) WHERE read_at IS NULL AND hidden = 0;

-- state now also: scheduled (its time has not come), done, expired, suppressed; `reason` says why.
ALTER TABLE push_intents ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE push_intents ADD COLUMN expires_at BIGINT NOT NULL DEFAULT 9223372036854775807;
ALTER TABLE push_intents ADD COLUMN grace BIGINT NOT NULL DEFAULT 0;
ALTER TABLE push_intents ADD COLUMN local_time TEXT;
ALTER TABLE push_intents ADD COLUMN reason TEXT;
CREATE INDEX push_intents_nid ON push_intents (nid);
CREATE INDEX push_intents_scheduled ON push_intents (not_before) WHERE state = 'scheduled';

-- state: queued, sending, accepted, handed, retry, failed, dead_token, missing, canceled, expired.
-- next_at: when it may be sent; while sending, when the lease ends; once accepted, when to ask for the receipt.
CREATE TABLE push_deliveries (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    nid         TEXT COLLATE "C" NOT NULL,
    project     TEXT COLLATE "C" NOT NULL,
    user_id     TEXT COLLATE "C" NOT NULL,
    evt_seq     BIGINT NOT NULL,
    lane        TEXT   NOT NULL,
    provider    TEXT   NOT NULL,
    token_id    BIGINT,
    category    TEXT,
    payload     TEXT   NOT NULL,
    state       TEXT   NOT NULL DEFAULT 'queued',
    attempt     BIGINT NOT NULL DEFAULT 0,
    next_at     BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    owner       TEXT,
    fence       BIGINT NOT NULL DEFAULT 0,
    ticket      TEXT,
    asked       BIGINT NOT NULL DEFAULT 0,
    error       TEXT,
    ambiguous   BIGINT NOT NULL DEFAULT 0,
    created_at  BIGINT NOT NULL,
    sent_at     BIGINT,
    accepted_at BIGINT,
    finished_at BIGINT,
    received_at BIGINT,
    opened_at   BIGINT
);
CREATE INDEX push_deliveries_due ON push_deliveries (provider, lane, next_at) WHERE state IN ('queued', 'retry');
CREATE INDEX push_deliveries_sending ON push_deliveries (next_at) WHERE state = 'sending';
CREATE INDEX push_deliveries_receipts ON push_deliveries (provider, next_at) WHERE state = 'accepted';
CREATE INDEX push_deliveries_expiry ON push_deliveries (expires_at) WHERE state IN ('queued', 'retry');
CREATE INDEX push_deliveries_user ON push_deliveries (user_id, project, evt_seq) WHERE state IN ('queued', 'retry');
CREATE INDEX push_deliveries_token ON push_deliveries (token_id) WHERE state IN ('queued', 'retry');
CREATE INDEX push_deliveries_nid ON push_deliveries (nid);
CREATE INDEX push_deliveries_finished ON push_deliveries (finished_at) WHERE finished_at IS NOT NULL;

-- Rate, breaker and dead-token guard of a provider, shared by all instances.
CREATE TABLE push_gates (
    provider TEXT COLLATE "C" PRIMARY KEY,
    state    TEXT NOT NULL
);

-- When something was last pushed to a user under a collapse key.
CREATE TABLE push_windows (
    user_id  TEXT COLLATE "C" NOT NULL,
    project  TEXT COLLATE "C" NOT NULL,
    collapse TEXT COLLATE "C" NOT NULL,
    sent_at  BIGINT NOT NULL,
    PRIMARY KEY (user_id, project, collapse)
);

-- Pushes per user and hour.
CREATE TABLE push_counts (
    user_id TEXT COLLATE "C" NOT NULL,
    hour    BIGINT NOT NULL,
    count   BIGINT NOT NULL,
    PRIMARY KEY (user_id, hour)
);

-- What happened, per minute.
CREATE TABLE push_stats (
    minute   BIGINT NOT NULL,
    project  TEXT COLLATE "C" NOT NULL,
    lane     TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    event    TEXT COLLATE "C" NOT NULL,
    reason   TEXT COLLATE "C" NOT NULL,
    count    BIGINT NOT NULL,
    PRIMARY KEY (minute, project, lane, provider, event, reason)
);

-- The key that signs what a client reports of a push; made by the first instance that needs it.
CREATE TABLE push_secrets (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

-- Who has a connection, and on which instance; an instance that is silent until then has nobody.
CREATE TABLE live_instances (
    instance TEXT COLLATE "C" PRIMARY KEY,
    until    BIGINT NOT NULL
);
CREATE TABLE live_users (
    user_id  TEXT COLLATE "C" NOT NULL,
    instance TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, instance)
);

-- Queues: rows change often and briefly, so dead ones are cleaned away early.
ALTER TABLE push_deliveries SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE push_intents SET (autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE push_gates SET (fillfactor = 50);
