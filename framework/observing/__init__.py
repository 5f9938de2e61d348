"""A model seen on batches: fixed probes, what layers compute, linear readouts."""
