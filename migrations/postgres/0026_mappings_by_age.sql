-- no-transaction
-- The oldest mappings, to purge.
CREATE INDEX CONCURRENTLY id_mappings_by_age ON id_mappings (at);
