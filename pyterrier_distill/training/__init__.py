"""Training: lists from frames, batches, and a thin subclass of transformers.Trainer."""
