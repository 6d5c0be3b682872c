-- What the queries of workers do with 10 million finished rows. In a database of its own, after `syncline migrate`:
--   psql -X DATABASE_URL -f load-tests/push-plans.sql
INSERT INTO push_deliveries (nid, project, user_id, evt_seq, lane, provider, token_id, payload, state, next_at,
    expires_at, created_at, finished_at)
SELECT 'n' || n, 'p', 'u' || n % 100000, n, (ARRAY['critical','high','normal'])[1 + n % 3], 'expo', n, '',
    'handed', n, n, n, n FROM generate_series(1, 10000000) n;
INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at)
SELECT 'n' || n, 'p', 'u' || n % 100000, n, (ARRAY['critical','high','normal'])[1 + n % 3], 'done', n, n
    FROM generate_series(1, 10000000) n;
INSERT INTO push_deliveries (nid, project, user_id, evt_seq, lane, provider, token_id, payload, state, next_at,
    expires_at, created_at)
SELECT 'q' || n, 'p', 'u' || n, n, 'high', 'expo', n, '{}', 'queued', n, 9223372036854775807, n
    FROM generate_series(1, 1000) n;
INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at)
SELECT 'q' || n, 'p', 'u' || n, n, 'high', 'waiting', n, n FROM generate_series(1, 1000) n;
INSERT INTO push_deliveries (nid, project, user_id, evt_seq, lane, provider, token_id, payload, state, next_at,
    expires_at, created_at)
SELECT 'r' || n, 'p', 'u' || n, n, 'high', 'expo', n, '{}', 'accepted', 1000000000, 9223372036854775807, n
    FROM generate_series(1, 100000) n;
INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at)
SELECT 's' || n, 'p' || n % 100, 'u' || n % 1000, n, 'high', 'scheduled', n, n FROM generate_series(1, 100000) n;
-- What a send reads: as many notifications, all read but those of what waits, of which each leads three more.
INSERT INTO notifications (nid, project, user_id, evt_seq, title, body, lane, created_at, entity_type, read_at)
SELECT 'n' || n, 'p', 'u' || n % 100000, n, 'title', 'body', 'high', n, 'task', n FROM generate_series(1, 10000000) n;
INSERT INTO notifications (nid, project, user_id, evt_seq, title, body, lane, created_at, entity_type)
SELECT kind || n, 'p', 'u' || n, n, 'title', 'body', 'high', n, 'task'
    FROM generate_series(1, 1000) n, (VALUES ('q'), ('g1-'), ('g2-'), ('g3-')) kinds (kind);
INSERT INTO push_intents (nid, project, user_id, evt_seq, lane, state, not_before, updated_at, leader)
SELECT kind || n, 'p', 'u' || n, n, 'high', 'done', n, n, 'q' || n
    FROM generate_series(1, 1000) n, (VALUES ('g1-'), ('g2-'), ('g3-')) kinds (kind);
INSERT INTO push_tokens (user_id, client, provider, platform, token, token_hash, state, state_at, registered_at)
SELECT 'u' || n, 'phone', 'expo', 'ios', 't' || n, 'h' || n, 'active', 0, 0 FROM generate_series(1, 100000) n;
INSERT INTO device_cursors (user_id, client, project, acked, seen, active, last_seen)
SELECT 'u' || n, client, 'p', 0, 0, true, 0 FROM generate_series(1, 100000) n, (VALUES ('phone'), ('web')) c (client);
INSERT INTO memberships (project, user_id, role, revision, updated_at)
SELECT 'p', 'u' || n, 'editor', n, 0 FROM generate_series(1, 100000) n;
INSERT INTO push_minutes (user_id, minute, count)
SELECT 'u' || n, minute, 1 FROM generate_series(1, 100000) n, generate_series(1, 10) minute;
INSERT INTO push_windows (user_id, project, collapse, sent_at)
SELECT 'u' || n, 'p', 'k', 0 FROM generate_series(1, 100000) n;
INSERT INTO push_gates (provider, state) VALUES ('expo', '{}') ON CONFLICT DO NOTHING;
VACUUM ANALYZE push_deliveries, push_intents, notifications, push_tokens, device_cursors, memberships, push_minutes,
    push_windows, push_gates;
-- The arguments of the statements: 100 of what waits, and whose they are.
SELECT json_agg(json_build_array('q' || n)) AS nids, json_agg(json_build_array('u' || n)) AS users,
    json_agg(json_build_array('u' || n, 'p')) AS places,
    json_agg(json_build_array('p', 'u' || n, 'phone', 0, n, 1)) AS acks,
    json_agg(json_build_array('p', 'u' || n, 'phone', n, 0, 0)) AS stored
FROM generate_series(1, 100) n \gset
\timing on
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT id FROM push_intents WHERE state = 'waiting' AND lane = 'high' AND not_before <= 1000
ORDER BY not_before LIMIT 500 FOR UPDATE SKIP LOCKED;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT id FROM push_deliveries WHERE state IN ('queued', 'retry') AND provider = 'expo' AND lane = 'high'
    AND next_at <= 1000 AND expires_at > 1000 ORDER BY next_at LIMIT 100 FOR UPDATE SKIP LOCKED;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT min(next_at) FROM push_deliveries WHERE state IN ('queued', 'retry') AND provider = 'expo' AND lane = 'high';
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT id FROM push_deliveries WHERE state = 'accepted' AND provider = 'expo' AND next_at <= 1000
ORDER BY next_at LIMIT 300 FOR UPDATE SKIP LOCKED;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT id FROM push_deliveries WHERE state = 'sending' AND next_at <= 1000;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT lane, provider, state, count(*), min(created_at) FROM push_deliveries
WHERE state IN ('queued', 'retry') GROUP BY lane, provider, state;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT lane, provider, state, count(*), min(created_at) FROM push_deliveries
WHERE state = 'accepted' GROUP BY lane, provider, state;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT lane, state, count(*), min(created_at) FROM push_intents
WHERE state IN ('waiting', 'claimed') GROUP BY lane, state;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
UPDATE push_intents SET state = 'canceled' WHERE state = 'scheduled' AND project = 'p7' AND user_id = 'u7';
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
DELETE FROM push_deliveries WHERE finished_at IS NOT NULL AND finished_at < 0;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
DELETE FROM push_intents WHERE state IN ('done', 'canceled', 'expired', 'suppressed') AND updated_at < 0;
\echo 'the notifications that a request tells of'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT r.nid AS leader, n.nid, COALESCE(i.evt_seq, n.evt_seq) AS evt_seq, n.title, n.body, n.data, n.link, n.template,
    n.vars, n.lane, n.category, n.entity_type, n.read_at, COALESCE(i.expires_at > 0, TRUE) AS in_time,
    (SELECT COALESCE(m.role, '') FROM memberships m
        WHERE m.project = n.project AND m.user_id = n.user_id) AS standing
FROM (SELECT value->>0 AS nid FROM json_array_elements(:'nids'::json)) r
JOIN notifications n ON n.nid = r.nid LEFT JOIN push_intents i ON i.nid = n.nid;
\echo 'those that they lead'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT r.nid AS leader, n.nid, COALESCE(i.evt_seq, n.evt_seq) AS evt_seq, n.title, n.body, n.data, n.link, n.template,
    n.vars, n.lane, n.category, n.entity_type, n.read_at, COALESCE(i.expires_at > 0, TRUE) AS in_time,
    (SELECT COALESCE(m.role, '') FROM memberships m
        WHERE m.project = n.project AND m.user_id = n.user_id) AS standing
FROM (SELECT value->>0 AS nid FROM json_array_elements(:'nids'::json)) r
JOIN push_intents i ON i.leader = r.nid JOIN notifications n ON n.nid = i.nid ORDER BY n.nid;
\echo 'badges'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT user_id, entity_type, count,
    (SELECT COALESCE(m.role, '') FROM memberships m
        WHERE m.project = n.project AND m.user_id = n.user_id) AS standing
FROM (SELECT user_id, project, entity_type, count(*) AS count FROM notifications
    WHERE read_at IS NULL AND hidden = 0
      AND user_id IN (SELECT value->>0 FROM json_array_elements(:'users'::json))
    GROUP BY user_id, project, entity_type) n;
\echo 'what their users have seen'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT c.user_id, c.client, c.project, c.acked, c.seen
FROM (SELECT value->>0 AS user_id, value->>1 AS project FROM json_array_elements(:'places'::json)) u
JOIN device_cursors c ON c.user_id = u.user_id AND c.project = u.project;
\echo 'devices'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT * FROM push_tokens
WHERE state <> 'disabled' AND user_id IN (SELECT value->>0 FROM json_array_elements(:'users'::json)) ORDER BY id;
\echo 'caps'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT user_id, CAST(sum(count) AS BIGINT) FROM push_minutes
WHERE minute > 5 AND user_id IN (SELECT value->>0 FROM json_array_elements(:'users'::json)) GROUP BY user_id;
\echo 'windows'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT user_id, project, collapse, sent_at FROM push_windows
WHERE user_id IN (SELECT value->>0 FROM json_array_elements(:'users'::json));
\echo 'the gate'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT state FROM push_gates WHERE provider = 'expo' FOR UPDATE;
\echo 'acknowledgements, armed pushes'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT i.id FROM (SELECT value->>0 AS project, value->>1 AS user_id, CAST(value->>4 AS BIGINT) AS seen
    FROM json_array_elements(:'acks'::json)) r
JOIN push_intents i ON i.project = r.project AND i.user_id = r.user_id AND i.evt_seq <= r.seen
    AND i.state = 'waiting'
ORDER BY i.id FOR UPDATE;
\echo 'acknowledgements, deliveries'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT d.id FROM (SELECT value->>0 AS project, value->>1 AS user_id, CAST(value->>4 AS BIGINT) AS seen
    FROM json_array_elements(:'acks'::json)) r
JOIN push_deliveries d ON d.project = r.project AND d.user_id = r.user_id AND d.evt_seq <= r.seen
    AND d.state IN ('queued', 'retry')
ORDER BY d.id FOR UPDATE;
\echo 'acknowledgements from the background, of a device'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
SELECT id FROM push_deliveries WHERE id IN (
    SELECT d.id FROM (SELECT value->>0 AS project, value->>1 AS user_id, value->>2 AS client,
        CAST(value->>3 AS BIGINT) AS acked FROM json_array_elements(:'stored'::json)
        WHERE CAST(value->>5 AS BIGINT) = 0) r
    JOIN push_tokens t ON t.user_id = r.user_id AND t.client = r.client
    JOIN push_deliveries d ON d.token_id = t.id AND d.project = r.project AND d.user_id = r.user_id
        AND d.evt_seq <= r.acked AND d.state IN ('queued', 'retry'))
ORDER BY id FOR UPDATE;
\echo 'a report of a device'
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF)
UPDATE push_deliveries SET received_at = 0
WHERE (nid = 'n7' OR nid = (SELECT leader FROM push_intents WHERE nid = 'n7')) AND token_id = 7
  AND received_at IS NULL AND sent_at IS NOT NULL
RETURNING project, lane, provider;
