"""A run from its config to its end: prepared, typed, built, recorded, kept to itself."""
