"""Training queries from documents."""
