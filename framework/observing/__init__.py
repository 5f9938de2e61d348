"""Measures a model on batches: fixed probes, activities of layers, linear probes."""
