"""Measures of how far features move, and how well they separate classes."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_cosine(features: Tensor) -> float:
    """Returns CS: the mean cosine similarity of the features (N, h) of two different examples."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    count = len(unit)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1)))


def mean_difference(features: Tensor, start: Tensor) -> float:
    """Returns Diff: the mean of ‖φ(x) − φ₀(x)‖₂ over examples, with features (N, h) each."""
    return float((features.double() - start.double()).norm(dim=1).mean())


def fisher_ratio(features: Tensor, labels: Tensor) -> float:
    """Returns FDR: tr(S_W⁺ S_B), the scatter (h, h) of class means over that within classes (Fisher's criterion).

    S_W = Σ_c Σ_{i in c} (φ_i − μ_c)(φ_i − μ_c)ᵀ, S_B = Σ_c N_c (μ_c − μ)(μ_c − μ)ᵀ; the pseudo-inverse ignores
    directions without variation.

    Args:
        features: (N, h).
        labels: (N,) int64.
    """
    x = features.double()
    centred, between = x - x.mean(0), torch.zeros_like(x)
    for label in labels.unique():
        own = labels == label
        between[own] = centred[own].mean(0)
    inside = centred - between
    return float(torch.trace(torch.linalg.pinv(inside.T @ inside, hermitian=True) @ (between.T @ between)))
