"""Data without labels, in several views."""
