"""Models as they are loaded, read texts and run: batches, memory, processes, checkpoints."""
