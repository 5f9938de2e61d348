"""Data of the experiments on what networks compute."""
