-- no-transaction
-- An inbox is purged by age.
CREATE INDEX CONCURRENTLY notifications_by_age ON notifications (created_at);
