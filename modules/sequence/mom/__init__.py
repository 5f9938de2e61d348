"""MoM: language models with several matrix memories, of which each token writes to and reads from a few.

Paper: Du et al. 2025, "MoM: Linear Sequence Modeling with Mixture-of-Memories", ICLR 2026, arXiv 2502.13685
"""

from modules.sequence.mom.layer import MoMLayer, MoMState
from modules.sequence.mom.lightning import MoMLM
from modules.sequence.mom.recall import MoMRecall
from modules.sequence.mom.routing import Router, balance_loss, pooled_balance_loss
from modules.sequence.mom.rules import RULES

__all__ = ["RULES", "MoMLM", "MoMLayer", "MoMRecall", "MoMState", "Router", "balance_loss", "pooled_balance_loss"]
