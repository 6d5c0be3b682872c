-- no-transaction
-- Delta reads and checksums in the order of versions; who looks for keys alone touches the index alone.
CREATE INDEX CONCURRENTLY entities_in_order ON entities (project, version) INCLUDE (type, id, deleted_at);
