"""Classifiers that withstand small changes of their inputs, and what can be proven about them."""
