-- The notification in whose push this one is told with others; NULL is one that is told alone, or leads.
ALTER TABLE push_intents ADD COLUMN leader TEXT;
-- The last position that was acknowledged while the app was in the foreground: a person has seen it.
ALTER TABLE device_cursors ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
