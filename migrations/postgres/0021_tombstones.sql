-- no-transaction
-- The oldest tombstones of a project, to purge.
CREATE INDEX CONCURRENTLY tombstones ON entities (project, version) WHERE deleted_at IS NOT NULL;
