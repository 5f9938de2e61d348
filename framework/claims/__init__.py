"""A paper's claims in a form that can fail, and their check."""

from framework.claims.claim import Bound, Claim, Reproduction, at_least, at_most, close_to, over_seeds, within

__all__ = ["Bound", "Claim", "Reproduction", "at_least", "at_most", "close_to", "over_seeds", "within"]
