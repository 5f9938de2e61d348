"""Methods on in-context learning: how attention uses the examples in its prompt."""
