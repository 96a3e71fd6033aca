"""The demo: distil a dense retriever on one collection, and compare it in ``pt.Experiment``."""
