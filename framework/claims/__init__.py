"""What a paper claims, in a form that can fail, and the check of it."""

from framework.claims.claim import Bound, Claim, Reproduction, at_least, at_most, close_to, within

__all__ = ["Bound", "Claim", "Reproduction", "at_least", "at_most", "close_to", "within"]
