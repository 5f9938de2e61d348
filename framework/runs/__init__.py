"""A run from its config to its end: prepared, type-checked, built, recorded, locked against other processes."""
