-- no-transaction
-- What is scheduled is taken back by project, and by user when somebody is taken out of one.
CREATE INDEX CONCURRENTLY push_intents_scheduled_of ON push_intents (project, user_id) WHERE state = 'scheduled';
