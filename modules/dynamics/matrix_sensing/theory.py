"""The theory's rates in closed form (Xiong, Ding, Du 2024, arXiv 2310.01769)."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.settings import above, at_least, between


def redundant_error(step: int, rate: float, k: int, rank: int) -> float:
    """Returns √(k − r) / (2 η T), the limit course of |X Xᵀ − M|_F (symmetric form) if k > r and A*A is the identity.

    The k − r redundant singular values obey s ← s (1 − η s²), hence s² → 1/(2 η T), whatever their initial values.

    Args:
        step: T, from 0, where it is infinite.
        rate: η, above 0.
        k: Columns of X, above r.
        rank: r of M, from 0.

    Raises:
        UserError: a setting is not accepted.
    """
    at_least(0, step=step, rank=rank)
    above(0, rate=rate)
    above({"rank": rank}, k=k)
    return float("inf") if step == 0 else (k - rank) ** 0.5 / (2 * rate * step)


def imbalance(f: Tensor, g: Tensor) -> Tensor:
    """Returns Δ = Fᵀ F − Gᵀ G (E, k, k), which gradient flow conserves."""
    return f.mT @ f - g.mT @ g


def redundant_space(f: Tensor, g: Tensor, rank: int) -> Tensor:
    """Orthonormal directions N of the k-space (E, k, c) that the product of trained factors does not use.

    They are spanned by the rows of F outside M's column space and the rows of G outside its row space: c is k − r, or
    n1 + n2 − 2r if that is less.

    Args:
        f: Trained, (E, n1, k).
        g: Trained, (E, n2, k).
        rank: r.
    """
    u, _, vt = torch.linalg.svd(f @ g.mT)
    outside = torch.cat([f.mT @ u[..., rank:], g.mT @ vt[:, rank:].mT], dim=-1)
    count = min(f.shape[-1] - rank, outside.shape[-1])
    return torch.linalg.svd(outside)[0][..., :count]


def predicted_rate(delta: Tensor, f: Tensor, g: Tensor, rank: int, rate: float) -> Tensor:
    """Predicts −d log|F Gᵀ − M| / dT at the end, where A*A is the identity.

    Near the end the error obeys D ← D − η (F Fᵀ D + D G Gᵀ): its parts are multiplied by 1 − η (σ_i(F)² + σ_j(G)²),
    with at most one of the two zero. Δ decides which of the factors vanishes on a redundant direction: F where Nᵀ Δ N
    is negative, G where it is positive. What is left there is |Nᵀ Δ N|, and its smallest eigenvalue is the paper's
    rate. The formula also has the terms that count for small n, a large start, or factors without a zero singular value
    (k > n). Where Δ is 0 on a redundant direction the error falls as 1/T, and the rate is 0.

    Args:
        delta: Δ (E, k, k), see :func:`imbalance`: of the start, which predicts the rate up to the drift of Δ, O(η); or
            of the trained factors, which is exact.
        f: Trained, (E, n1, k).
        g: Trained, (E, n2, k).
        rank: r, from 1 to the smallest of n1, n2 and k.
        rate: η, above 0.

    Returns:
        (E,); NaN for a member that has diverged.

    Raises:
        UserError: a setting is not accepted.
    """
    rows, columns, width = f.shape[1], g.shape[1], f.shape[2]
    between(1, min(rows, columns, width), rank=rank)
    above(0, rate=rate)
    finite = (f @ g.mT).isfinite().flatten(1).all(1)
    delta, f, g = (torch.where(finite[:, None, None], value, 0.0) for value in (delta, f, g))
    n = redundant_space(f, g, rank)
    values, axes = torch.linalg.eigh(n.mT @ delta @ n)
    axes, ends_in_g = n @ axes, values < 0
    eye = torch.eye(width, dtype=delta.dtype, device=delta.device)
    used = eye - n @ n.mT
    keeps_f = eye - (axes * ends_in_g[:, None]) @ axes.mT
    keeps_g = eye - (axes * ~ends_in_g[:, None]) @ axes.mT
    # Fᵀ F and Gᵀ G at the limits: as trained on the used directions, by Δ on the redundant ones
    gram_f = keeps_f @ delta @ keeps_f + used @ (f.mT @ f - delta) @ used
    gram_g = used @ (g.mT @ g + delta) @ used - keeps_g @ delta @ keeps_g
    rank_f = (rank + (~ends_in_g).sum(1)).clamp(max=rows)
    rank_g = (rank + ends_in_g.sum(1)).clamp(max=columns)
    strengths_f, strengths_g = torch.linalg.eigvalsh(gram_f).clamp(min=0), torch.linalg.eigvalsh(gram_g).clamp(min=0)
    least_f = strengths_f.gather(1, width - rank_f[:, None])[:, 0]
    least_g = strengths_g.gather(1, width - rank_g[:, None])[:, 0]
    inf = torch.full_like(least_f, torch.inf)
    apart = torch.where(rank_g < columns, least_f, inf), torch.where(rank_f < rows, least_g, inf)
    slowest = torch.stack([*apart, least_f + least_g]).amin(0)
    fastest = strengths_f[:, -1] + strengths_g[:, -1]
    found = -torch.maximum((1 - rate * slowest).abs(), (1 - rate * fastest).abs()).log()
    return torch.where(finite, found, torch.nan)
