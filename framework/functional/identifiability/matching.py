"""Which estimated latent is which true one, and how well: the mean correlation coefficient (MCC).

Hyvarinen & Morioka 2016 (arXiv 1605.06336) use it for identifiability up to permutation and element-wise functions; so
do Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568.

    MCC = max over permutations π of mean_i |corr(z_i, ẑ_π(i))|
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from framework.functional.identifiability.splits import OverSplits, halves, paired, summary
from framework.settings import one_of

Correlation = Literal["pearson", "spearman"]


def correlations(z_true: Any, z_hat: Any, correlation: Correlation = "pearson") -> np.ndarray:
    """Returns |corr(z_i, ẑ_j)|, (d, e); 0 where one of them is constant.

    Args:
        z_true: True latents (N, d).
        z_hat: Estimates (N, e).
        correlation: ``pearson``, or ``spearman``, of ranks, which no increasing function of a latent changes.

    Raises:
        UserError: the arrays do not fit together, or the correlation is not known.
    """
    one_of(get_args(Correlation), correlation=correlation)
    arrays = paired(z_true, z_hat)
    if correlation == "spearman":
        from scipy.stats import rankdata

        arrays = rankdata(arrays[0], axis=0), rankdata(arrays[1], axis=0)
    scaled = []
    for array in arrays:
        low, high = array.min(0), array.max(0)
        size = np.where(low < high, high / 2 - low / 2, 1.0)  # so that no square is too large or too small
        centred = np.where(low < high, (array / 2 - low / 2) / size, 0.0)  # of a constant rounding must leave nothing
        centred = centred - centred.mean(0)
        length = np.linalg.norm(centred, axis=0)
        scaled.append(np.where(low < high, centred / np.where(length > 0, length, 1.0), 0.0))
    return np.minimum(np.abs(scaled[0].T @ scaled[1]), 1.0)


def match(strength: np.ndarray) -> np.ndarray:
    """Returns for each true latent the estimate that it is matched with, (d,), so that the total is largest.

    The optimum is that of the Hungarian algorithm. Of more latents than estimates those left over are -1.

    Args:
        strength: (d, e), for example :func:`correlations`.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(strength, maximize=True)
    found = np.full(len(strength), -1)
    found[rows] = columns
    return found


def matched_mean(strength: np.ndarray, permutation: np.ndarray) -> float:
    """Returns the mean over the true latents of their match's strength; one without a match counts as 0.

    Args:
        strength: (d, e).
        permutation: (d,), as :func:`match` returns it.
    """
    rows = np.flatnonzero(permutation >= 0)
    return float(strength[rows, permutation[rows]].sum() / len(strength))


def mean_corr_coef(z_true: Any, z_hat: Any, correlation: Correlation = "pearson") -> float:
    """Returns the MCC, matched and measured on the same samples.

    Args:
        z_true: True latents (N, d).
        z_hat: Estimates (N, e).
        correlation: ``pearson`` or ``spearman``.
    """
    strength = correlations(z_true, z_hat, correlation)
    return matched_mean(strength, match(strength))


def split_mcc(
    z_true: Any, z_hat: Any, correlation: Correlation = "pearson", splits: int = 10, seed: int = 0
) -> OverSplits:
    """Returns the MCC over random splits: matched on one half of the samples, measured on the other.

    Args:
        z_true: True latents (N, d).
        z_hat: Estimates (N, e).
        correlation: ``pearson`` or ``spearman``.
        splits: Number of splits.
        seed: Of the draws.
    """
    true, hat = paired(z_true, z_hat)
    found = []
    for fit, score in halves(len(true), splits, seed):
        permutation = match(correlations(true[fit], hat[fit], correlation))
        found.append(matched_mean(correlations(true[score], hat[score], correlation), permutation))
    return summary(found)
