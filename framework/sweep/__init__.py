"""Runs W&B sweep files on one or more machines without an account, in workers that import libraries once."""
