-- What the claim queries do with 10 million finished rows. In a database of its own, after `syncline migrate`:
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
VACUUM ANALYZE push_deliveries, push_intents;
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
