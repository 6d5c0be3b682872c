-- The oldest mappings, to purge.
CREATE INDEX id_mappings_by_age ON id_mappings (at);
