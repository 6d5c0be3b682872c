-- no-transaction
-- How far each device of a project is: nothing is purged before a device that may still come back.
CREATE INDEX CONCURRENTLY device_cursors_by_project ON device_cursors (project);
