"""Generates documentation pages from the sources and from recorded results."""
