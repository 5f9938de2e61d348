"""What networks compute, how it can be read from them, and how they learn it."""
