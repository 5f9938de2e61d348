"""Readers of the user's files, one for each kind; nothing in a file is executed."""
