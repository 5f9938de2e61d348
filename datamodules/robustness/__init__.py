"""Data of the robustness and privacy experiments."""
