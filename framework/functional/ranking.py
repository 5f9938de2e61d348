"""How well scores rank positive samples above negative ones: AUROC with half ties, and the best operating point.

As in "Differential privacy representation geometry for medical image analysis" (Tayebi Arasteh et al. 2026,
arXiv 2603.01098).

AUROC = P(score of a positive > score of a negative) + P(they are equal) / 2, the Mann-Whitney count. It is computed for
many resamples at once: a resample is the number of times that each sample occurs, and sorting is done only once.

The operating point is the threshold with the largest Youden's J = sensitivity + specificity - 1, the highest of equal
ones; in each resample it is chosen again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from framework.errors import UserError

_ENTRIES = 2**22  # of the counts that are processed together
OPERATING = ("accuracy", "sensitivity", "specificity", "f1")


class _Ranked:
    """Positives and negatives of each different score in ascending order, in each resample (R, G)."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        weights = counts[:, order]
        self.positives = np.add.reduceat(weights * positive[order], starts, axis=1)
        self.negatives = np.add.reduceat(weights * ~positive[order], starts, axis=1)
        self.p = self.positives.sum(1)
        self.n = self.negatives.sum(1)

    def auroc(self) -> np.ndarray:
        below = np.cumsum(self.negatives, axis=1) - self.negatives
        pairs = (self.positives * (below + self.negatives / 2)).sum(1)
        with np.errstate(invalid="ignore"):
            return pairs / (self.p * self.n)  # 0/0: one class

    def operating_point(self) -> dict[str, np.ndarray]:
        """At each threshold, from the highest: everything from there on is called positive."""
        found = np.cumsum(self.positives[:, ::-1], axis=1)
        false = np.cumsum(self.negatives[:, ::-1], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            j = found / self.p[:, None] - false / self.n[:, None]
            best = np.argmax(np.nan_to_num(j), axis=1)[:, None]
            true = np.take_along_axis(found, best, 1)[:, 0]
            wrong = np.take_along_axis(false, best, 1)[:, 0]
            values = {
                "accuracy": (true + self.n - wrong) / (self.p + self.n),
                "sensitivity": true / self.p,
                "specificity": 1 - wrong / self.n,
                "f1": 2 * true / (true + wrong + self.p),
            }
        defined = (self.p > 0) & (self.n > 0)
        return {name: np.where(defined, value, np.nan) for name, value in values.items()}


def rank_scores(
    scores: np.ndarray, labels: np.ndarray, counts: np.ndarray | None = None, operating: bool = False
) -> dict[str, np.ndarray]:
    """Returns the AUROC of each label in each resample, ``auroc`` (R, K); NaN where a label has one class.

    Args:
        scores: (N, K), larger for the positive; if a label's are not all finite, its numbers are NaN.
        labels: (N, K) of 0 and 1.
        counts: How often each sample occurs in each resample, (R, N); by default each once, with R = 1.
        operating: Whether accuracy, sensitivity, specificity and F1 at the best threshold are returned too, by the
            names in :data:`OPERATING`.

    Raises:
        UserError: the shapes do not fit, or a label is neither 0 nor 1.
    """
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise UserError(f"scores {scores.shape} and labels {labels.shape}: both (N, K) are expected")
    if not np.isin(labels, (0, 1)).all():
        raise UserError("labels: a value that is neither 0 nor 1 is not accepted")
    if counts is not None and (counts.ndim != 2 or counts.shape[1] != len(scores)):
        raise UserError(f"counts: {counts.shape} is not accepted; (R, {len(scores)})")
    counts = np.ones((1, len(scores))) if counts is None else counts
    names = ("auroc", *(OPERATING if operating else ()))
    result = {name: np.full((len(counts), scores.shape[1]), np.nan) for name in names}
    rows = max(1, _ENTRIES // max(1, len(scores)))
    for label in range(scores.shape[1]):
        if not np.isfinite(scores[:, label]).all():
            continue
        positive = labels[:, label] == 1
        for first in range(0, len(counts), rows):
            part = slice(first, first + rows)
            ranked = _Ranked(scores[:, label], positive, counts[part])
            result["auroc"][part, label] = ranked.auroc()
            for name, values in (ranked.operating_point() if operating else {}).items():
                result[name][part, label] = values
    return result


def auroc(scores: Any, labels: Any) -> np.ndarray:
    """Returns the AUROC of each label (K,), NaN where a label has one class, of scores and labels (N, K).

    Raises:
        UserError: as :func:`rank_scores`.
    """
    return rank_scores(np.asarray(scores, np.float64), np.asarray(labels))["auroc"][0]


def two_classes(labels: np.ndarray) -> np.ndarray:
    """Returns which labels, of (N, K) of 0 and 1, have both classes, bool (K,)."""
    return (labels == 1).any(0) & (labels == 0).any(0)


def macro(values: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of values (K,) over the labels (N, K) with both classes; NaN if there is none or one is NaN."""
    values = values[two_classes(labels)]
    return float(values.mean()) if len(values) else float("nan")


class MacroAUROC(Metric):
    """The mean AUROC of the labels that have both classes; NaN if none has, or a score of them is not finite.

    Unlike torchmetrics' own it ranks logits as they are: their sigmoid in float32 would tie large ones.
    """

    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Adds the scores and labels (B, K) of a batch."""
        scores = scores.detach()
        self.scores.append(scores if scores.dtype == torch.float64 else scores.float())
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """Returns the mean over labels."""
        if isinstance(self.scores, list) and not self.scores:  # what several processes gathered is a tensor
            return torch.tensor(float("nan"))
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        found = macro(auroc(scores.cpu().numpy(), labels.cpu().numpy()), labels.cpu().numpy())
        return torch.tensor(found, dtype=torch.float32, device=scores.device)
