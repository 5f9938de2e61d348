"""The best errors of linear attention and of gradient descent on prompts whose tasks have a non-zero mean.

w ~ N(w*, Ψ), x ~ N(0, Λ), labels with noise σ², C examples; errors are E (ŷ − ⟨w, x_q⟩)², of the noiseless label; all
is float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framework.settings import at_least, finite_entries


def best_preconditioner(cov: Tensor, task_cov: Tensor, length: int, noise: float = 0.0) -> Tensor:
    """Returns Γ* = Ψ Λ [(1 + 1/C) Λ Ψ Λ + (tr(Ψ Λ) + σ²)/C Λ]⁺ of one gradient step from w*; Λ may be singular.

    Args:
        cov: Λ (d, d).
        task_cov: Ψ (d, d).
        length: C.
        noise: σ².

    Returns:
        (d, d).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    at_least(0, noise=noise)
    finite_entries(cov=cov, task_cov=task_cov)
    spread = cov @ task_cov @ cov
    inner = (1 + 1 / length) * spread + ((task_cov @ cov).trace() + noise) / length * cov
    return task_cov @ cov @ torch.linalg.pinv(inner, hermitian=True)


def gradient_step_risk(preconditioner: Tensor, cov: Tensor, task_cov: Tensor, length: int, noise: float = 0.0) -> float:
    """Error of ⟨w* − Γ (S w* − g), x_q⟩; it does not depend on w*.

    tr(Λ [Ψ − Γ Λ Ψ − Ψ Λ Γᵀ + Γ ((1 + 1/C) Λ Ψ Λ + (tr(Ψ Λ) + σ²)/C Λ) Γᵀ]).

    Args:
        preconditioner: Γ (d, d).
        cov: Λ (d, d).
        task_cov: Ψ (d, d).
        length: C.
        noise: σ².

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    at_least(0, noise=noise)
    spread = (1 + 1 / length) * cov @ task_cov @ cov + ((task_cov @ cov).trace() + noise) / length * cov
    crossed = preconditioner @ cov @ task_cov
    return float((cov @ (task_cov - crossed - crossed.mT + preconditioner @ spread @ preconditioner.mT)).trace())


def best_gradient_step_risk(cov: Tensor, task_cov: Tensor, length: int, noise: float = 0.0) -> float:
    """R_GD*, with Γ*; for Λ = Ψ = I it is d (1 − γ*), γ* = 1/(1 + (d + 1 + σ²)/C).

    Args:
        cov: Λ (d, d).
        task_cov: Ψ (d, d).
        length: C.
        noise: σ².

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    at_least(0, noise=noise)
    return gradient_step_risk(best_preconditioner(cov, task_cov, length, noise), cov, task_cov, length, noise)


def isotropic_rates(dim: int, length: int) -> tuple[float, float]:
    """γ = 1/(1 + (d + 1)/C) and c = 1/(d + 2/C) of the best linear attention without a guess, H ≥ d + 1, Λ = Ψ = I.

    It answers x_qᵀ [γ (g − S w*) + c tr(S) w*].

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    return 1 / (1 + (dim + 1) / length), 1 / (dim + 2 / length)


def multi_head_gap(mean: Tensor, length: int) -> float:
    """R_MH − R_GD* = 2 |w*|²/(d C + 2): what no number of heads removes without a guess (Λ = Ψ = I, σ = 0).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    return float(2 * mean.square().sum() / (len(mean) * length + 2))


def multi_head_answer(x: Tensor, y: Tensor, mean: Tensor) -> Tensor:
    """Returns the best linear attention without a guess (see :func:`isotropic_rates`).

    Args:
        x: (B, C + 1, d), the query last.
        y: (B, C + 1, 1), the last not looked at.
        mean: w* (d,).

    Returns:
        (1, B, 1).
    """
    examples, query, length = x[:, :-1], x[:, -1], x.shape[1] - 1
    rate, share = isotropic_rates(x.shape[2], length)
    start = mean.to(x)
    rest = y[:, :-1, 0] - examples @ start
    weights = rate * (examples * rest[..., None]).mean(1)
    weights = weights + share * examples.square().sum(2).mean(1)[:, None] * start
    return (weights * query).sum(1)[None, :, None]


def as_gradient_step(start: Tensor, preconditioner: Tensor) -> dict[str, Tensor]:
    """Weights with which one head and a linear guess are a gradient step from w₀, exactly and for every prompt.

    v = w₀, p = (−w₀; 1), W^KQ = [[Γᵀ, 0], [0, 0]].

    Args:
        start: w₀ (d,).
        preconditioner: Γ (d, d), of any symmetry.

    Returns:
        ``guess`` (d,), ``value`` (1, d + 1), ``key_query`` (1, d + 1, d + 1).
    """
    dim = len(start)
    key_query = start.new_zeros(1, dim + 1, dim + 1)
    key_query[0, :dim, :dim] = preconditioner.mT
    return {"guess": start, "value": torch.cat([-start, start.new_ones(1)])[None], "key_query": key_query}


def fewer_heads(value: Tensor, key_query: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the same function with d + 1 heads, of any number of them: p_h = e_h, columns a_(h,j) = (B_j)_(h,·).

    The answer is Σ_j z_(q,j) ⟨G, B_j⟩ with B_j = Σ_h a_(h,j) p_hᵀ; G is symmetric.

    Args:
        value: p (H, d + 1).
        key_query: W^KQ (H, d + 1, d + 1).

    Returns:
        (d + 1, d + 1) and (d + 1, d + 1, d + 1).
    """
    size = value.shape[1]
    tensors = torch.einsum("hij,hk->jki", key_query, value)  # B_jᵀ: row k goes with p_k
    return torch.eye(size, dtype=value.dtype), tensors.permute(1, 2, 0)
