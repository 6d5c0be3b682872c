-- no-transaction
-- Armed pushes that ended are purged by age.
CREATE INDEX CONCURRENTLY push_intents_finished ON push_intents (updated_at)
    WHERE state IN ('done', 'canceled', 'expired', 'suppressed');
