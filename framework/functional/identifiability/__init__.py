"""Identifiability of latents from bare arrays: matching, set-wise R², supports, and what a support guarantees.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

Every score is fitted and measured on disjoint samples, over several random splits.
"""

from framework.functional.identifiability.active import active_units
from framework.functional.identifiability.matching import correlations, match, mean_corr_coef, split_mcc
from framework.functional.identifiability.regression import SetR2, kernel_r2, set_r2
from framework.functional.identifiability.sets import (
    DiversityReport,
    all_forbidden_pairs,
    as_support,
    atoms,
    diversity_clauses,
    diversity_report,
    forbidden_pairs,
    latents_of,
    set_parts,
    two_groups,
)
from framework.functional.identifiability.splits import OverSplits
from framework.functional.identifiability.support import SupportScore, support_scores

__all__ = [
    "DiversityReport",
    "OverSplits",
    "SetR2",
    "SupportScore",
    "active_units",
    "all_forbidden_pairs",
    "as_support",
    "atoms",
    "correlations",
    "diversity_clauses",
    "diversity_report",
    "forbidden_pairs",
    "kernel_r2",
    "latents_of",
    "match",
    "mean_corr_coef",
    "set_parts",
    "set_r2",
    "split_mcc",
    "support_scores",
    "two_groups",
]
