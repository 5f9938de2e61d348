"""Diverse dictionary learning: which latents of a nonlinear model can be recovered, and a penalty that recovers them.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.
"""

from modules.interpretability.diverse_dictionary.module import SparseJacobianVAE

__all__ = ["SparseJacobianVAE"]
