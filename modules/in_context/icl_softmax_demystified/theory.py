"""Diagonal heads in mean field, and the exact errors of the gradient steps that they converge to.

x ~ N(0, I_d), β ~ N(0, I/d), labels with noise of variance s2, L examples; errors include the query's noise (He et al.
2025; the finite-size errors are derived from the same model). Heads have KQ = ω diag(I, 0) and OV = μ e_(d+1)ᵀ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from framework.settings import above, at_least, finite, finite_entries


def reduced_answer(x: Tensor, y: Tensor, omega: Tensor, mu: Tensor) -> Tensor:
    """Returns Σ_h μ_h yᵀ softmax(ω_h X x_q).

    Args:
        x: (B, N + 1, d), the query last.
        y: (B, N + 1, T); the last is not used.
        omega: ω (H,).
        mu: μ (H,).

    Returns:
        (B, T).
    """
    scores = x[:, :-1] @ x[:, -1][..., None]  # (B, N, 1)
    attention = (scores * omega.to(x)).softmax(1)
    return torch.einsum("bnh,bnt,h->bt", attention, y[:, :-1], mu.to(x))


def _kernel(omega: Tensor, dim: int, length: int, noise: float) -> Tensor:
    outer = omega[:, None] * omega
    return outer + (1 + noise) / length * torch.exp((dim * outer).clamp(max=50.0))


def mean_field_loss(omega: Tensor, mu: Tensor, dim: int, length: int, noise: float) -> Tensor:
    """1 + s2 − 2 μᵀω + μᵀ (ω ωᵀ + (1 + s2)/L exp(d ω ωᵀ)) μ, to leading order in 1/L.

    Args:
        omega: ω (H,).
        mu: μ (H,).
        dim: d.
        length: L.
        noise: s2.

    Returns:
        ().

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    return 1 + noise - 2 * mu @ omega + mu @ _kernel(omega, dim, length, noise) @ mu


def mean_field_gradient(omega: Tensor, mu: Tensor, dim: int, length: int, noise: float) -> tuple[Tensor, Tensor]:
    """Its derivatives by ω and μ.

    Args:
        omega: ω (H,).
        mu: μ (H,).
        dim: d.
        length: L.
        noise: s2.

    Returns:
        (H,) and (H,).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    outer = omega[:, None] * omega
    exponential = (1 + noise) / length * torch.exp((dim * outer).clamp(max=50.0))
    by_mu = -2 * omega + 2 * (outer + exponential) @ mu
    by_omega = -2 * mu + 2 * mu * ((torch.ones_like(outer) + dim * exponential) @ (mu * omega))
    return by_omega, by_mu


def best_mu(omega: Tensor, dim: int, length: int, noise: float) -> Tensor:
    """Returns the μ that minimises it; of least norm where two ω coincide.

    Args:
        omega: ω (H,).
        dim: d.
        length: L.
        noise: s2.

    Returns:
        (H,).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    finite_entries(omega=omega)
    return torch.linalg.lstsq(_kernel(omega, dim, length, noise), omega[:, None], driver="gelsd").solution[:, 0]


class AttentionHead(NamedTuple):
    """ω, μ and the loss of one head."""

    omega: float
    mu: float
    loss: float


def single_head(dim: int, length: int, noise: float) -> AttentionHead:
    """Returns ω* = 1/√d, μ* = √d/(1 + e (1 + s2) d/L), loss 1 + s2 − 1/(1 + e (1 + s2) d/L).

    Args:
        dim: d.
        length: L.
        noise: s2.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    share = 1 / (1 + math.e * (1 + noise) * dim / length)
    return AttentionHead(dim**-0.5, dim**0.5 * share, 1 + noise - share)


def many_heads_infimum(dim: int, length: int, noise: float) -> float:
    """1 + s2 − 1/(1 + (1 + s2) d/L), approached by (ω, −ω) as ω → 0 and never reached.

    Args:
        dim: d.
        length: L.
        noise: s2.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    return 1 + noise - 1 / (1 + (1 + noise) * dim / length)


class SoftmaxFlow(NamedTuple):
    """``time`` (R,), ``omega`` (R, H), ``mu`` (R, H), ``loss`` (R,)."""

    time: np.ndarray
    omega: np.ndarray
    mu: np.ndarray
    loss: np.ndarray


def mean_field_flow(
    omega: Tensor, mu: Tensor, dim: int, length: int, noise: float, end: float, points: int = 200
) -> SoftmaxFlow:
    """Gradient flow of the mean-field loss by LSODA.

    Args:
        omega: Initial ω (H,).
        mu: Initial μ (H,).
        dim: d.
        length: L.
        noise: s2.
        end: Time at which it ends.
        points: R; times from 1e-4 of the end on are evenly spaced in the logarithm, the first is 0.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    above(0, end=end)
    at_least(2, points=points)
    finite_entries(omega=omega, mu=mu)
    heads = len(omega)

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        w, m = torch.as_tensor(state[:heads]), torch.as_tensor(state[heads:])
        return -torch.cat(mean_field_gradient(w, m, dim, length, noise)).numpy()

    time = np.concatenate([[0.0], np.geomspace(end * 1e-4, end, points - 1)])
    begin = torch.cat([omega, mu]).double().numpy()
    found = solve_ivp(slope, (0, end), begin, t_eval=time, method="LSODA", rtol=1e-8, atol=1e-10)
    w, m = found.y[:heads].T, found.y[heads:].T
    losses = [
        float(mean_field_loss(torch.tensor(a), torch.tensor(b), dim, length, noise)) for a, b in zip(w, m, strict=True)
    ]
    return SoftmaxFlow(found.t, w, m, np.array(losses))


def debiased_step_risk(rate: float, dim: int, length: int, noise: float) -> float:
    """Of (η/L) Σ y_l ⟨x_l − x̄, x_q⟩: 1 + s2 − 2 η n/L + η² n (n + d + 1 + d s2)/L², n = L − 1.

    Args:
        rate: η.
        dim: d.
        length: L.
        noise: s2.

    Raises:
        UserError: an argument is not accepted.
    """
    finite(rate=rate)
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    n = length - 1
    return 1 + noise - 2 * rate * n / length + rate**2 * n * (n + dim + 1 + dim * noise) / length**2


def best_debiased_rate(dim: int, length: int, noise: float) -> float:
    """Returns η* = L/(L + d + d s2).

    Args:
        dim: d.
        length: L.
        noise: s2.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    return length / (length + dim + dim * noise)


def gradient_step_risk(rate: float, dim: int, length: int, noise: float) -> float:
    """Of (η/L) Σ y_l ⟨x_l, x_q⟩: 1 + s2 − 2 η + η² (1 + (d + 1 + d s2)/L).

    Args:
        rate: η.
        dim: d.
        length: L.
        noise: s2.

    Raises:
        UserError: an argument is not accepted.
    """
    finite(rate=rate)
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    return 1 + noise - 2 * rate + rate**2 * (1 + (dim + 1 + dim * noise) / length)


def best_gradient_rate(dim: int, length: int, noise: float) -> float:
    """Returns η* = 1/(1 + (d + 1 + d s2)/L).

    Args:
        dim: d.
        length: L.
        noise: s2.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    at_least(0, noise=noise)
    return 1 / (1 + (dim + 1 + dim * noise) / length)


def proportional_limit(ratio: float, noise: float) -> tuple[float, float]:
    """Errors of the best gradient step and of Bayes as d, L → ∞ with d/L → ξ.

    1 + s2 − 1/(1 + ξ (1 + s2)), and ½ (s2 + (ξ − 1)/ξ + √(4 s2 + (s2 + (1 − ξ)/ξ)²)) + s2/2 of the label's own.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, ratio=ratio)
    at_least(0, noise=noise)
    step = 1 + noise - 1 / (1 + ratio * (1 + noise))
    root = math.sqrt(4 * noise + (noise + (1 - ratio) / ratio) ** 2)
    return step, 0.5 * (noise + (ratio - 1) / ratio + root)
