-- no-transaction
-- What is told together is found by the one that leads.
CREATE INDEX CONCURRENTLY push_intents_of_leader ON push_intents (leader) WHERE leader IS NOT NULL;
