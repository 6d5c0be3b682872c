-- Delta reads and checksums in the order of versions; who looks for keys alone touches the index alone.
CREATE INDEX entities_in_order ON entities (project, version, type, id, deleted_at);
