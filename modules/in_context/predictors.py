"""Closed-form predictors of a prompt's query, to compare attention with.

All take ``x`` (…, N, d), ``y`` (…, N, T), a query (…, d), and return (…, T); leading dimensions are batched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from framework.functional.regression_prompts import PromptLaw
from framework.settings import at_least, finite, finite_entries


def _read(query: Tensor, weights: Tensor) -> Tensor:
    """Returns ⟨w, x_q⟩ (…, T) of weights (…, d, T)."""
    return (query[..., None, :] @ weights)[..., 0, :]


def solve_symmetric(matrix: Tensor, right: Tensor) -> Tensor:
    """Returns matrix⁻¹ right (…, n, T); the pseudo-inverse in place of the inverse if one matrix is singular.

    Args:
        matrix: (…, n, n), symmetric.
        right: (…, n, T).
    """
    solution, info = torch.linalg.solve_ex(matrix, right)
    return torch.linalg.pinv(matrix, hermitian=True) @ right if bool(info.any()) else solution


def _solved(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """argmin_w Σ_i (⟨w, x_i⟩ − y_i)² + ``penalty`` |w|² (…, d, T), from the smaller of XᵀX and XXᵀ."""
    count, dim = x.shape[-2:]
    size = min(count, dim)
    ridge = penalty * torch.eye(size, dtype=x.dtype, device=x.device)
    if count >= dim:
        return solve_symmetric(x.mT @ x + ridge, x.mT @ y)
    return x.mT @ solve_symmetric(x @ x.mT + ridge, y)


def least_squares(x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """Ordinary least squares; if N < d the solution of smallest norm.

    Args:
        x: (…, N, d).
        y: (…, N, T).
        query: (…, d).
    """
    return _read(query, _solved(x, y, 0.0))


def ridge(x: Tensor, y: Tensor, query: Tensor, penalty: float) -> Tensor:
    """argmin_w Σ_i (⟨w, x_i⟩ − y_i)² + g |w|².

    Args:
        x: (…, N, d).
        y: (…, N, T).
        query: (…, d).
        penalty: g.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, penalty=penalty)
    return _read(query, _solved(x, y, penalty))


def bayes(x: Tensor, y: Tensor, query: Tensor, mean: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """Posterior mean for w ~ N(mean, covariance) and labels ⟨w, x⟩ + ε, ε of variance ``noise``.

    With w = w* + Ψ^½ v it is ridge regression on X Ψ^½ with the penalty σ².

    Args:
        x: (…, N, d).
        y: (…, N, T).
        query: (…, d).
        mean: w* (T, d).
        covariance: Ψ (d, d), of each task; may be singular.
        noise: σ².

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, noise=noise)
    finite_entries(covariance=covariance)
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > 1e-10 * values.max()
    root = (vectors[:, kept] * values[kept].sqrt()).to(x)
    start = mean.to(x)
    weights = root @ _solved(x @ root, y - x @ start.mT, noise)
    return _read(query, start.mT + weights)


def gradient_step(
    x: Tensor, y: Tensor, query: Tensor, preconditioner: Tensor | float = 1.0, start: Tensor | None = None
) -> Tensor:
    """Returns ⟨w₀ − Γ (S w₀ − g), x_q⟩: one step on (1/2N) Σ_i (⟨w, x_i⟩ − y_i)², S = Σ x xᵀ/N, g = Σ y x/N.

    Args:
        x: (…, N, d).
        y: (…, N, T).
        query: (…, d).
        preconditioner: Γ (d, d), or a step size.
        start: w₀ (T, d); by default 0.
    """
    gradient = -(x.mT @ y) / x.shape[-2]
    weights: Tensor | float = 0.0
    if start is not None:
        weights = start.to(x).mT
        gradient = gradient + x.mT @ (x @ weights) / x.shape[-2]
    step = preconditioner.to(x) @ gradient if isinstance(preconditioner, Tensor) else preconditioner * gradient
    return _read(query, weights - step)


def debiased_step(x: Tensor, y: Tensor, query: Tensor, rate: float = 1.0) -> Tensor:
    """Returns (η/N) Σ_i y_i ⟨x_i − x̄, x_q⟩: the step from 0 that is invariant to a constant added to all labels.

    Args:
        x: (…, N, d).
        y: (…, N, T).
        query: (…, d).
        rate: η.

    Raises:
        UserError: an argument is not accepted.
    """
    finite(rate=rate)
    return gradient_step(x - x.mean(-2, keepdim=True), y, query, rate)


Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]


def baselines(law: PromptLaw) -> dict[str, Predictor]:
    """Predictors that use the law: ``least_squares``, ``bayes`` (exact for linear labels, Gaussian prior)."""
    found: dict[str, Predictor] = {"least_squares": least_squares}
    mask = torch.ones_like(law.task_mean) if law.mask is None else law.mask
    if law.tasks == 1 or law.mask is None:
        found["bayes"] = lambda x, y, query: bayes(x, y, query, law.task_mean, law.task_cov, law.noise)
    else:

        def by_task(x: Tensor, y: Tensor, query: Tensor) -> Tensor:
            parts = []
            for task in range(law.tasks):
                psi = mask[task][:, None] * law.task_cov * mask[task]
                mean = (mask[task] * law.task_mean[task])[None]
                parts.append(bayes(x, y[..., task : task + 1], query, mean, psi, law.noise))
            return torch.cat(parts, -1)

        found["bayes"] = by_task
    return found
