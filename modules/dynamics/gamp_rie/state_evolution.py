"""The Bayes-optimal error, from state evolution."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from framework.settings import above, at_least
from modules.dynamics.gamp_rie.denoiser import error

LARGEST = 1e6  # q̂ above which the error counts as zero


def perfect_recovery(kappa: float) -> float:
    """Returns α_PR, the smallest α with a noiseless error of 0: κ − κ²/2 for κ ≤ 1, else 1/2.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, kappa=kappa)
    return kappa - kappa**2 / 2 if kappa <= 1 else 0.5


def mmse(alpha: float, kappa: float, noise: float = 0.0) -> float:
    """Returns κ (2α/q̂ − Δ̃/2), where q̂ solves 2α − Δ̃ q̂/2 = q̂ F_RIE(1/q̂).

    Args:
        alpha: α = n/d² > 0.
        kappa: κ = m/d > 0.
        noise: Δ̃, the variance of the labels' noise.

    Returns:
        κ |S − Ŝ|²/d of the posterior mean: 1 at α = 0.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha, kappa=kappa)
    at_least(0, noise=noise)
    if noise == 0 and alpha >= perfect_recovery(kappa):
        return 0.0

    def gap(log_q: float) -> float:
        q = math.exp(log_q)
        return 2 * alpha - noise * q / 2 - q * error(1 / q, kappa)

    low = math.log(0.7 * 2 * alpha / (1 / kappa + noise / 2))
    high = math.log(min(LARGEST, 4 * alpha / noise) if noise else LARGEST)
    if gap(high) > 0:
        return 0.0
    q = math.exp(float(brentq(gap, low, high, xtol=1e-10)))
    return kappa * (2 * alpha / q - noise / 2)


def curve(kappa: float, noise: float = 0.0, points: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """α, ascending, and the optimal error there, (points,) each: both are explicit functions of q̂.

    2α = q̂ F_RIE(1/q̂) + Δ̃ q̂/2 and κ(2α/q̂ − Δ̃/2) = κ F_RIE(1/q̂).

    Args:
        kappa: κ = m/d > 0.
        noise: Δ̃.
        points: Number of q̂, geometrically up to 1e4, from where the error is nearly 1.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, kappa=kappa)
    at_least(0, noise=noise)
    at_least(1, points=points)
    q = np.geomspace(1e-2 * min(1.0, kappa**2), 1e4, points)
    left = np.array([error(1 / value, kappa) for value in q])
    return q * left / 2 + noise * q / 4, kappa * left
