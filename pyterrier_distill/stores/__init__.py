"""What lies on disk: files written whole, identities, and what must not be written down."""
