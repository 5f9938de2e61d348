"""What networks compute, and how it can be read from them."""
