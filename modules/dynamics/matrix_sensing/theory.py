"""The theory's rates in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def redundant_error(step: int, rate: float, k: int, rank: int) -> float:
    """Returns √(k − r) / (2 η T), the limit course of |X Xᵀ − M|_F (symmetric form) if k > r and A*A is the identity.

    The k − r redundant singular values obey s ← s (1 − η s²), hence s² → 1/(2 η T), whatever their initial values.

    Args:
        step: T, from 0, where it is infinite.
        rate: η.
        k: Columns of X.
        rank: r of M.
    """
    return float("inf") if step == 0 else (k - rank) ** 0.5 / (2 * rate * step)


def imbalance(f: Tensor, g: Tensor) -> Tensor:
    """Returns Δ = Fᵀ F − Gᵀ G (E, k, k), which gradient flow conserves."""
    return f.mT @ f - g.mT @ g


def redundant_space(g: Tensor, rank: int) -> Tensor:
    """Orthonormal directions (E, k, k − r) of the k-space on which a trained G (E, n2, k) vanishes."""
    return torch.linalg.svd(g, full_matrices=True)[2][:, rank:].mT


def predicted_rate(start: Tensor, f: Tensor, g: Tensor, rank: int, rate: float) -> Tensor:
    """Returns −d log|F Gᵀ − M| / dT at the end, (E,): −ln(1 − η λ) of the slowest decaying part.

    On the redundant space N, λ is λ_min(Nᵀ Δ₀ N), as in the paper. For a large start the parts of F and G outside M's
    column and row space are slower; they are multiplied by 1 − η σ_r(G)² and 1 − η σ_r(F)² in each step. If G is the
    larger factor at the start, F vanishes on N instead, and F and G are exchanged in the formula.

    Args:
        start: Δ₀ (E, k, k), see :func:`imbalance`.
        f: Trained, (E, n1, k).
        g: Trained, (E, n2, k).
        rank: r < k.
        rate: η.
    """
    if float(start.diagonal(dim1=-2, dim2=-1).sum()) < 0:
        start, f, g = -start, g, f
    n = redundant_space(g, rank)
    slowest = torch.linalg.eigvalsh(n.mT @ start @ n)[:, 0]
    for factor in (f, g):
        slowest = torch.minimum(slowest, torch.linalg.svdvals(factor)[:, rank - 1].square())
    return -torch.log1p(-rate * slowest)
