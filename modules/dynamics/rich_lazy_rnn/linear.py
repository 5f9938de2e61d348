"""Two linear layers, y = w_2 W_1 x, where the alignment of the tangent kernel has a closed form.

Liu et al. 2024, arXiv 2310.08513, Theorem 1 and Proposition 1, for whitened inputs, a target βᵀ x with |β| = 1, squared
error and small initial weights. The kernel of inputs X is Xᵀ (W_1ᵀ W_1 + |w_2|² I) X; gradient flow ends at W_1ᵀ W_1 =
β βᵀ and |w_2| = 1. With P = W_1(0)ᵀ W_1(0) of eigenvalues p_i and b = |w_2(0)|², over β uniform on the sphere,

    KA = (Σ p_i + βᵀ P β + (d + 1) b) / (√(d + 3) √(Σ (p_i + b)²))
    E[KA] = (1 + 1/d) (Σ p_i + d b) / (√(d + 3) √(Σ (p_i + b)²))

and for r equal singular values and b = |W_1|² it is (d + 1)² / (d √((d + 3)(d + 2 + 1/r))), which increases with r. An
exception is W_1(0) = σ u βᵀ, of rank 1 but aligned with the task: KA = 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.functional.laziness import kernel_alignment
from framework.settings import above, at_least, between, finite_entries


def sphere(tasks: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Returns β, uniform on the unit sphere.

    Args:
        tasks: Number of tasks.
        dimension: d.
        generator: Source of randomness.

    Returns:
        (tasks, d), float64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, tasks=tasks, dimension=dimension)
    drawn = torch.randn(tasks, dimension, generator=generator, dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


def anisotropic(dimension: int, kappa: float, generator: torch.Generator) -> Tensor:
    """Returns F; half of its singular values are κ, the others 1.

    Args:
        dimension: d.
        kappa: κ.
        generator: Source of randomness.

    Returns:
        (d, d), float64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dimension=dimension)
    at_least(0, kappa=kappa)
    turns = [
        torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    ]
    values = torch.ones(dimension, dtype=torch.float64)
    values[: dimension // 2] = kappa
    return (turns[0] * values) @ turns[1].mT


def evenly_ranked(
    tasks: int, hidden: int, dimension: int, rank: int, sigma: float, generator: torch.Generator
) -> Tensor:
    """W_1 with equal singular values in random directions, |W_1|_F = σ.

    Args:
        tasks: Number of tasks.
        hidden: h.
        dimension: d.
        rank: Number of singular values, at most h and d.
        sigma: σ.
        generator: Source of randomness.

    Returns:
        (tasks, h, d), float64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, tasks=tasks, hidden=hidden, dimension=dimension)
    between(1, min(hidden, dimension), rank=rank)
    at_least(0, sigma=sigma)
    left, right = (
        torch.linalg.qr(torch.randn(tasks, n, rank, generator=generator, dtype=torch.float64))[0]
        for n in (hidden, dimension)
    )
    return sigma / rank**0.5 * left @ right.mT


def aligned(directions: Tensor, hidden: int, sigma: float, generator: torch.Generator) -> Tensor:
    """W_1 with equal singular values along given directions, |W_1|_F = σ.

    Args:
        directions: (…, d, r), orthonormal columns, float64.
        hidden: h, r or more.
        sigma: σ.
        generator: Source of randomness.

    Returns:
        (…, h, d), float64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(directions.shape[-1], hidden=hidden)
    at_least(0, sigma=sigma)
    drawn = torch.randn(*directions.shape[:-2], hidden, directions.shape[-1], generator=generator, dtype=torch.float64)
    return sigma / directions.shape[-1] ** 0.5 * torch.linalg.qr(drawn)[0] @ directions.mT


def train(w1: Tensor, w2: Tensor, beta: Tensor, rate: float = 0.05, steps: int = 2000) -> tuple[Tensor, Tensor]:
    """Gradient descent on ½ |w_2 W_1 − βᵀ|², the loss for whitened inputs, of many networks together.

    Args:
        w1: (E, h, d).
        w2: (E, 1, h).
        beta: (E, d).
        rate: η.
        steps: Number of steps.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, rate=rate)
    at_least(0, steps=steps)
    for _ in range(steps):
        error = w2 @ w1 - beta[:, None]
        w1, w2 = w1 - rate * w2.mT @ error, w2 - rate * error @ w1.mT
    return w1, w2


def tangent_kernel(w1: Tensor, w2: Tensor) -> Tensor:
    """W_1ᵀ W_1 + |w_2|² I (E, d, d), the kernel on X = I."""
    eye = torch.eye(w1.shape[-1], dtype=w1.dtype, device=w1.device)
    return w1.mT @ w1 + w2.square().sum((-2, -1))[:, None, None] * eye


def alignment(start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]) -> Tensor:
    """KA (E,) between two pairs of W_1 and w_2."""
    return kernel_alignment(tangent_kernel(*end), tangent_kernel(*start))


def predicted_alignment(w1: Tensor, w2: Tensor, beta: Tensor) -> Tensor:
    """KA (E,) after training from small initial weights, for each task.

    Args:
        w1: W_1(0) (E, h, d).
        w2: w_2(0) (E, 1, h).
        beta: (E, d), of norm 1.

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(w1=w1, w2=w2, beta=beta)
    d, b = w1.shape[-1], w2.square().sum((-2, -1))
    p = w1.mT @ w1
    eigenvalues = torch.linalg.eigvalsh(p)
    along = (beta[:, None] @ p @ beta[..., None])[:, 0, 0]
    top = eigenvalues.sum(-1) + along + (d + 1) * b
    return top / ((d + 3) ** 0.5 * (eigenvalues + b[:, None]).square().sum(-1).sqrt())


def expected_alignment(eigenvalues: Tensor, b: float) -> float:
    """Returns E[KA] over tasks uniform on the sphere; ``eigenvalues`` p (d,). NaN if the kernel is 0.

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(eigenvalues=eigenvalues)
    at_least(0, b=b)
    d = len(eigenvalues)
    top = (1 + 1 / d) * (float(eigenvalues.sum()) + d * b)
    norm = float((eigenvalues + b).square().sum()) ** 0.5
    return top / ((d + 3) ** 0.5 * norm) if norm else math.nan


def expected_alignment_of_rank(dimension: int, rank: int) -> float:
    """Returns the same for ``rank`` equal singular values and b = |W_1|².

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dimension=dimension)
    between(1, dimension, rank=rank)
    d = dimension
    return (d + 1) ** 2 / (d * ((d + 3) * (d + 2 + 1 / rank)) ** 0.5)
