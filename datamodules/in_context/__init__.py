"""Data of the in-context learning experiments."""
