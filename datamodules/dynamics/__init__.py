"""Data of the learning-dynamics experiments."""
