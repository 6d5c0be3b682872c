-- An inbox is purged by age.
CREATE INDEX notifications_by_age ON notifications (created_at);
