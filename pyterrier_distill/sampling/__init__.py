"""Which documents and pairs are worth training on or asking about."""
