"""Finds, reads, opens, writes and exports checkpoints and other files of weights; reading executes nothing."""
