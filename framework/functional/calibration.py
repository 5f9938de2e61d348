"""Temperature scaling and the calibration of a classifier's probabilities (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from framework.settings import above, at_least, finite_entries

LIMITS = (1e-3, 1e3)
"""Limits of a temperature; the optimum can be at infinity, for example if no example is classified wrongly."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Fits the temperature T > 0 that minimises the negative log-likelihood of softmax(logits / T).

    The objective is convex in 1/T; Brent's method minimises it on a logarithmic scale within ``LIMITS``.

    Args:
        logits: (N, C).
        labels: (N,) int64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, examples=len(labels))
    finite_entries(logits=logits)
    from scipy.optimize import minimize_scalar

    scores, targets = logits.double(), labels

    def loss(exponent: float) -> float:
        return float(F.cross_entropy(scores * math.exp(-exponent), targets))

    low, high = (math.log(limit) for limit in LIMITS)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x)) if loss(float(found.x)) <= loss(0.0) else 1.0


@dataclass(frozen=True)
class Calibration:
    """The calibration of probabilities.

    Attributes:
        nll: Mean negative log-likelihood.
        ece: Expected calibration error: the mean over examples of |accuracy − confidence| of their bin.
        mce: Maximum calibration error, over bins.
    """

    nll: float
    ece: float
    mce: float


def calibration(logits: Tensor, labels: Tensor, temperature: float = 1.0, bins: int = 15) -> Calibration:
    """Returns the calibration of softmax(logits / temperature), over equal bins (lo, hi] of the largest probability.

    Args:
        logits: (N, C).
        labels: (N,) int64.
        temperature: T.
        bins: Number of bins.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, examples=len(labels), bins=bins)
    above(0, temperature=temperature)
    scaled = logits.double() / temperature
    probabilities, classes = scaled.softmax(-1), logits.shape[1]
    ece, mce = (
        float(multiclass_calibration_error(probabilities, labels, classes, n_bins=bins, norm=norm))
        for norm in ("l1", "max")
    )
    return Calibration(float(F.cross_entropy(scaled, labels)), ece, mce)


def reliability(logits: Tensor, labels: Tensor, temperature: float = 1.0, bins: int = 15) -> Tensor:
    """Returns the share, mean confidence and accuracy of the examples in each bin (lo, hi] of the confidence.

    Args:
        logits: (N, C).
        labels: Classes (N,).
        temperature: Divisor of the logits.
        bins: Number of bins, of equal width over [0, 1].

    Returns:
        Share of the examples, mean confidence and accuracy, (bins, 3) float64; the latter two are NaN if a bin is
        empty.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, examples=len(labels), bins=bins)
    above(0, temperature=temperature)
    confidence, predicted = (logits.double() / temperature).softmax(-1).max(-1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins).double()
    sums = [torch.bincount(place, value, minlength=bins) for value in (confidence, (predicted == labels).double())]
    return torch.stack([count / len(labels), *(total / count for total in sums)], 1)
