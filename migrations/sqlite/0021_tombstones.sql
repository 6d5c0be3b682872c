-- The oldest tombstones of a project, to purge.
CREATE INDEX tombstones ON entities (project, version) WHERE deleted_at IS NOT NULL;
