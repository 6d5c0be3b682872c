-- The devices that were not seen for longest, to purge.
CREATE INDEX device_cursors_by_age ON device_cursors (last_seen);
