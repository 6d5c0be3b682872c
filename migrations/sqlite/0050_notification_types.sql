-- The type of the entity a notification is about: who may not read it any more is not told. Empty is about
-- none; NULL was written before this column was: it was asked about when it was made.
ALTER TABLE notifications ADD COLUMN entity_type TEXT;
