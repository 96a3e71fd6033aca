"""Indexes of token vectors, and their search."""
