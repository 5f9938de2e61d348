"""Theory of the two heads: the bound on the error, and when few samples are enough for naive Bayes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def pinsker_bound(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the excess error of predicting by q instead of p, max_y p_y − p_{argmax q}, and its bound √(2 KL(p ‖ q)).

    By Jensen the excess of the zero-one risk is at most √(2 · that of the cross-entropy).

    Args:
        p: (…, K) true probabilities.
        q: (…, K) probabilities, above 0 if p is.

    Returns:
        Both (…,).
    """
    cost = p.amax(-1) - p.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1)
    divergence = (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)
    return cost, (2 * divergence.clamp(min=0)).sqrt()


class Assumptions(NamedTuple):
    """The quantities that must be bounded for naive Bayes to need O(log n) samples.

    Attributes:
        variances: (n,) v, within classes.
        beta: (K, K, K) |E log-likelihood ratio| / n of classes k₁ and k₂ under class k, index [k₁, k₂, k]: bounded
            below; NaN for k₁ = k₂.
        alpha: (K, K) variance of that ratio over n, the same under every class: bounded above; NaN for k₁ = k₂.
    """

    variances: Tensor
    beta: Tensor
    alpha: Tensor


def assumptions(means: Tensor, variances: Tensor) -> Assumptions:
    """Returns the assumptions in closed form, for Gaussians with means (K, n) and shared variances (n,).

    β[k₁, k₂, k] = |Σ_i (μ_ki − μ_k₂i)² − (μ_ki − μ_k₁i)²| / (2 v_i n) and α[k₁, k₂] = Σ_i (μ_k₁i − μ_k₂i)² / (v_i n).
    """
    scaled = means / variances.sqrt()
    squared = torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist").square() / means.shape[1]
    beta = (squared[None, :, :] - squared[:, None, :]).abs() / 2
    same = torch.eye(len(means), dtype=torch.bool)
    return Assumptions(
        variances, beta.masked_fill(same[:, :, None], float("nan")), squared.masked_fill(same, float("nan"))
    )


def log_ratio(x: Tensor, means: Tensor, variances: Tensor, first: int, second: int) -> Tensor:
    """log p(x | k₁) − log p(x | k₂).

    Args:
        x: (N, n).
        means: (K, n).
        variances: (n,), shared by all classes.
        first: k₁.
        second: k₂.

    Returns:
        (N,).
    """
    return ((x - means[second]).square() - (x - means[first]).square()).div(2 * variances).sum(-1)


def deciles(values: Tensor) -> list[float]:
    """Returns the 10 %, 20 %, … 90 % quantiles of all values that are not NaN."""
    known = values[~values.isnan()].double()
    return torch.quantile(known, torch.linspace(0.1, 0.9, 9, dtype=torch.float64)).tolist()
