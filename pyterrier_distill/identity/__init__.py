"""What decides the answers of a teacher, a model or a function, as plain data: for manifests, caches and resuming."""
