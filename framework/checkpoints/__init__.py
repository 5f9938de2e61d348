"""Files of weights: found, read without executing anything, opened as a model, written, exported."""
