-- The key that `push_tokens_of_user` replaces let one user take the place of another's installation.
ALTER TABLE push_tokens DROP CONSTRAINT push_tokens_client_provider_key;
