-- What users decided lately, to tell again what the bus may have lost.
CREATE INDEX conflict_log_resolved
    ON conflict_log (resolved_at) WHERE resolved_at IS NOT NULL;
