-- entities_in_order begins with the same columns. No statement names an index, so the version before runs on.
DROP INDEX entities_by_version;
