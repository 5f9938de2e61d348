"""Sweeps: W&B sweep files run on this machine or many, without an account, in workers that import once."""
