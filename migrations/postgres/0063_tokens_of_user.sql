-- no-transaction
-- An installation is a user's: whoever names another's has one of their own under that name.
CREATE UNIQUE INDEX CONCURRENTLY push_tokens_of_user ON push_tokens (user_id, client, provider);
