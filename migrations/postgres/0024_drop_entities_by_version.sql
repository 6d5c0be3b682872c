-- no-transaction
-- entities_in_order begins with the same columns. No statement names an index, so the version before runs on.
DROP INDEX CONCURRENTLY entities_by_version;
