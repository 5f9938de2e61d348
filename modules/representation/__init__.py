"""Representations and clusters of unlabelled data."""
