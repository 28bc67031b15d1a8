"""A run's journal: one file, a record per line, each bound to the one before it."""
