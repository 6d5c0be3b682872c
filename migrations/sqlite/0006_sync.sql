-- Who holds a job that one instance does at a time, and how long clients may keep what they read.

-- fence rises with every change of holder; expires_at is by the database's clock, in milliseconds.
CREATE TABLE leases (
    name       TEXT    PRIMARY KEY,
    owner      TEXT    NOT NULL,
    fence      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- ttl and stale in seconds.
CREATE TABLE cache_policies (
    type      TEXT    PRIMARY KEY,
    strategy  TEXT    NOT NULL,
    ttl       INTEGER NOT NULL,
    stale     INTEGER NOT NULL,
    max_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO cache_policies (type, strategy, ttl, stale, max_bytes) VALUES
    ('user',       'CACHE_FIRST',            3600, 86400,  5242880),
    ('project',    'STALE_WHILE_REVALIDATE', 1800, 86400,  5242880),
    ('attendance', 'NETWORK_FIRST',           300,  3600, 10485760),
    ('task',       'CACHE_FIRST',             900, 86400, 20971520),
    ('payroll',    'NETWORK_FIRST',            60,     0,  1048576);
