"""Data of the interpretability experiments."""
