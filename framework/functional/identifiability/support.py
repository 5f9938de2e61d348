"""An estimated support against the true one, beside that of an estimate with all entries.

Paper: Zheng, Li, Fan, Wilson, Zhang, 2026, "Diverse Dictionary Learning", ICLR, arXiv 2604.17568 (Theorem 2: supports
agree up to a permutation of columns).

F1 of a dense truth is high for free: with all entries it is 2q/(1 + q) at density q. So that score is always beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.functional.identifiability.matching import match
from framework.functional.identifiability.sets import as_support
from framework.settings import above, brief, not_empty

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
THRESHOLD = 0.1
"""Of the largest strength: an entry above it belongs to the support."""


@dataclass(frozen=True)
class SupportScore:
    """Scores of one threshold.

    Attributes:
        threshold: Share of the largest strength from which an entry belongs to the estimate.
        f1: F1 of the entries.
        precision: Share of the estimated entries that are true.
        recall: Share of the true entries that are estimated.
        shd: Structural Hamming distance: entries that differ.
        all_ones_f1: F1 of an estimate with all entries.
        all_ones_shd: Its Hamming distance.
    """

    threshold: float
    f1: float
    precision: float
    recall: float
    shd: int
    all_ones_f1: float
    all_ones_shd: int

    @property
    def gain(self) -> float:
        """F1 above that of an estimate with all entries."""
        return self.f1 - self.all_ones_f1

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for a JSON file."""
        return asdict(self)


def support_scores(
    support: Any,
    strength: Any,
    permutation: np.ndarray | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[SupportScore]:
    """Compares an estimated support with the true one at each threshold.

    Args:
        support: The true support (D, d), of 0 and 1.
        strength: Of the estimated dependencies, (D, e), for example the mean |J_ij|.
        permutation: The column of ``strength`` for each latent, (d,), -1 for none; by default the one with which most
            entries agree, which favours the estimate.
        thresholds: Shares of the largest strength.

    Raises:
        UserError: the shapes do not fit, a strength is negative or not finite, a threshold is not above 0, or
            ``permutation`` names no column.
    """
    true, found = as_support(support), np.asarray(strength, np.float64)
    not_empty(thresholds=thresholds)
    above(0, thresholds=list(thresholds))
    if found.ndim != 2 or len(found) != len(true):
        raise UserError(f"strength: the shape {found.shape} is not accepted; ({len(true)}, latents) is expected")
    if not np.isfinite(found).all() or (found < 0).any():
        raise UserError("strength: has entries that are negative or not finite")
    if permutation is not None and (
        np.shape(permutation) != true.shape[1:] or np.min(permutation) < -1 or np.max(permutation) >= found.shape[1]
    ):
        raise UserError(
            f"permutation: {brief(permutation)} is not accepted; for each of {true.shape[1]} latents a column from 0 "
            f"to {found.shape[1] - 1}, or -1"
        )
    most = float(found.max(initial=0.0))
    return [_score(true, found > threshold * most, threshold, permutation) for threshold in thresholds]


def _score(true: np.ndarray, estimate: np.ndarray, threshold: float, permutation: np.ndarray | None) -> SupportScore:
    if permutation is None:  # fewest differences, an unmatched latent counting as a column without entries
        agree = (true[:, :, None] == estimate[:, None, :]).sum(0)
        permutation = match(agree)
    aligned = np.zeros_like(true)
    rows = np.flatnonzero(permutation >= 0)
    aligned[:, rows] = estimate[:, permutation[rows]]
    hits, entries = int((aligned & true).sum()), int(true.sum())
    precision = hits / max(int(aligned.sum()), 1)
    recall = hits / max(entries, 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    q = entries / true.size
    return SupportScore(
        threshold, f1, precision, recall, int((aligned != true).sum()), 2 * q / (1 + q), true.size - entries
    )
