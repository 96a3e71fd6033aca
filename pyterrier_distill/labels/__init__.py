"""Teacher labels on disk: never lost, never paid for twice."""
