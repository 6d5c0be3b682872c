-- Devices and their push tokens, the inbox, and what became of each push on each device.
-- Times are milliseconds since the Unix epoch by the database's clock. Lanes sort by urgency as they are.

CREATE TABLE push_tokens (
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
    UNIQUE (provider, token_hash),
    UNIQUE (client, provider)
) STRICT;
CREATE INDEX push_tokens_user ON push_tokens (user_id);

ALTER TABLE notifications ADD COLUMN template TEXT;
ALTER TABLE notifications ADD COLUMN vars TEXT;
ALTER TABLE notifications ADD COLUMN collapse TEXT;
ALTER TABLE notifications ADD COLUMN category TEXT;
-- Not yet to be seen: a scheduled one becomes visible when its time comes.
ALTER TABLE notifications ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN seen_at INTEGER;
ALTER TABLE notifications ADD COLUMN read_at INTEGER;
CREATE INDEX notifications_inbox ON notifications (user_id, nid);
CREATE INDEX notifications_unread ON notifications (user_id, project) WHERE read_at IS NULL AND hidden = 0;

-- state now also: scheduled (its time has not come), done, expired, suppressed; `reason` says why.
ALTER TABLE push_intents ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE push_intents ADD COLUMN expires_at INTEGER NOT NULL DEFAULT 9223372036854775807;
ALTER TABLE push_intents ADD COLUMN grace INTEGER NOT NULL DEFAULT 0;
ALTER TABLE push_intents ADD COLUMN local_time TEXT;
ALTER TABLE push_intents ADD COLUMN reason TEXT;
CREATE INDEX push_intents_nid ON push_intents (nid);
CREATE INDEX push_intents_scheduled ON push_intents (not_before) WHERE state = 'scheduled';

-- state: queued, sending, accepted, handed, retry, failed, dead_token, missing, canceled, expired.
-- next_at: when it may be sent; while sending, when the lease ends; once accepted, when to ask for the receipt.
CREATE TABLE push_deliveries (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    nid         TEXT NOT NULL,
    project     TEXT NOT NULL,
    user_id     TEXT NOT NULL,
    evt_seq     INTEGER NOT NULL,
    lane        TEXT   NOT NULL,
    provider    TEXT   NOT NULL,
    token_id    INTEGER,
    category    TEXT,
    payload     TEXT   NOT NULL,
    state       TEXT   NOT NULL DEFAULT 'queued',
    attempt     INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    owner       TEXT,
    fence       INTEGER NOT NULL DEFAULT 0,
    ticket      TEXT,
    asked       INTEGER NOT NULL DEFAULT 0,
    error       TEXT,
    ambiguous   INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    sent_at     INTEGER,
    accepted_at INTEGER,
    finished_at INTEGER,
    received_at INTEGER,
    opened_at   INTEGER
) STRICT;
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
    provider TEXT PRIMARY KEY,
    state    TEXT NOT NULL
) STRICT;

-- When something was last pushed to a user under a collapse key.
CREATE TABLE push_windows (
    user_id  TEXT NOT NULL,
    project  TEXT NOT NULL,
    collapse TEXT NOT NULL,
    sent_at  INTEGER NOT NULL,
    PRIMARY KEY (user_id, project, collapse)
) STRICT;

-- Pushes per user and hour.
CREATE TABLE push_counts (
    user_id TEXT NOT NULL,
    hour    INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (user_id, hour)
) STRICT;

-- What happened, per minute.
CREATE TABLE push_stats (
    minute   INTEGER NOT NULL,
    project  TEXT NOT NULL,
    lane     TEXT NOT NULL,
    provider TEXT NOT NULL,
    event    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (minute, project, lane, provider, event, reason)
) STRICT;

-- The key that signs what a client reports of a push; made by the first instance that needs it.
CREATE TABLE push_secrets (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Who has a connection, and on which instance; an instance that is silent until then has nobody.
CREATE TABLE live_instances (
    instance TEXT PRIMARY KEY,
    until    INTEGER NOT NULL
) STRICT;
CREATE TABLE live_users (
    user_id  TEXT NOT NULL,
    instance TEXT NOT NULL,
    PRIMARY KEY (user_id, instance)
) STRICT;
