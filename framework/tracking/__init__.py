"""What a run leaves behind: the metrics log, W&B, predictions, provenance, and what the terminal shows."""
