"""Theories of learning dynamics, and the experiments that they predict."""
