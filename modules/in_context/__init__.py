"""What attention learns to do with the examples in its prompt."""
