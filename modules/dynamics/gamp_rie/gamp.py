"""Generalised approximate message passing with the RIE denoiser, for y_i = Tr(Z_i S) + √Δ̃ ξ_i.

Z_i = (x_i x_iᵀ − I)/√d is never built: it would have d² numbers for each sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.dynamics.gamp_rie.denoiser import denoise, error


@dataclass
class State:
    """State that one iteration passes to the next.

    Attributes:
        estimate: Ŝ (d, d).
        c: Twice the denoiser's predicted error.
        variance: V, damped.
        omega: ω (n,), damped.
        precision: A of the last iteration.
    """

    estimate: Tensor
    c: float
    variance: float
    omega: Tensor
    precision: float = 0.0


def forward(x: Tensor, s: Tensor) -> Tensor:
    """Tr(Z_i S) (n,) of x (n, d) and S (d, d)."""
    return (((x @ s) * x).sum(-1) - s.trace()) / x.shape[1] ** 0.5


def adjoint(x: Tensor, g: Tensor) -> Tensor:
    """Returns Σ_i g_i Z_i (d, d) of x (n, d) and g (n,)."""
    d = x.shape[1]
    return (x.mT @ (g[:, None] * x) - g.sum() * torch.eye(d).to(x)) / d**0.5


def wishart(d: int, m: int, generator: torch.Generator | None = None) -> Tensor:
    """WᵀW/m, W with entries N(0, 1).

    Args:
        d: Columns of W.
        m: Rows of W.
        generator: Source of randomness; torch's global one by default.

    Returns:
        (d, d), float64.
    """
    w = torch.randn(m, d, dtype=torch.float64, generator=generator)
    return w.mT @ w / m


def begin(estimate: Tensor, n: int, kappa: float) -> State:
    """Returns the initial state: c = V = 10/κ, deliberately too large, and ω = 10/√κ.

    Args:
        estimate: Ŝ (d, d).
        n: Samples.
        kappa: κ = m/d.
    """
    return State(estimate, 10 / kappa, 10 / kappa, estimate.new_full((n,), 10 / kappa**0.5))


def iterate(state: State, x: Tensor, y: Tensor, kappa: float, noise: float, damping: float) -> State:
    """Returns the state after one iteration; costs O(n d²) and one eigendecomposition.

    Args:
        state: See :class:`State`.
        x: (n, d).
        y: Centred labels (n,).
        kappa: κ = m/d.
        noise: Δ̃.
        damping: Share of the old V and ω that is kept, in [0, 1).
    """
    d = x.shape[1]
    g = (y - state.omega) / (noise + state.variance)
    omega = (1 - damping) * (forward(x, state.estimate) - g * state.c) + damping * state.omega
    variance = (1 - damping) * state.c + damping * state.variance
    g = (y - omega) / (noise + variance)
    a = 2 * float(g.square().sum()) / d**2
    estimate = denoise(state.estimate + adjoint(x, g) / (d * a), 1 / (2 * a) + 1e-6, kappa)
    return State(estimate, 2 * error(1 / (2 * a), kappa), variance, omega, a)


def distance(first: Tensor, second: Tensor, kappa: float) -> Tensor:
    """Returns κ |S₁ − S₂|²/d over the last two dimensions.

    Args:
        first: S₁ (…, d, d).
        second: S₂ (…, d, d).
        kappa: κ = m/d.

    Returns:
        (…).
    """
    return kappa * (first - second).square().sum((-2, -1)) / first.shape[-1]


def solve(
    x: Tensor,
    y: Tensor,
    m: int,
    noise: float = 0.0,
    damping: float = 0.5,
    iterations: int = 100,
    tolerance: float = 1e-5,
    generator: torch.Generator | None = None,
) -> State:
    """Iterates from an independent Wishart matrix until Ŝ moves by less than ``tolerance`` (κ|·|²/d).

    Args:
        x: (n, d), float64.
        y: Centred labels (n,).
        m: Width of the teacher.
        noise: Δ̃.
        damping: See :func:`iterate`.
        iterations: Largest number of iterations.
        tolerance: Change of Ŝ below which it stops.
        generator: Source of randomness.
    """
    kappa = m / x.shape[1]
    state = begin(wishart(x.shape[1], m, generator), len(x), kappa)
    for _ in range(iterations):
        new = iterate(state, x, y, kappa, noise, damping)
        moved = float(distance(new.estimate, state.estimate, kappa))
        state = new
        if moved < tolerance:
            break
    return state
