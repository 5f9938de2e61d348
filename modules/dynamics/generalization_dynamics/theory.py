"""Errors of a linear student of a noisy linear teacher, at every time of its training, in the limit of many dimensions.

Advani & Saxe 2017, arXiv 1710.03667. Inputs have variance 1/N, the labels' noise variance 1, teacher weights variance
SNR, and the student's initial weights variance INR; α = P/N is the number of examples for each dimension; time is that
of gradient flow ``dw/dt = (y − w X) Xᵀ`` (a sum over examples). The spectrum of X Xᵀ is Marchenko-Pastur's,

    ρ(λ) = √((λ₊ − λ)(λ − λ₋)) / (2 π λ),  λ± = (√α ± 1)²,  and (1 − α)₊ at 0.

Integrals are by ``λ = 1 + α + 2 √α cos φ`` and the midpoint rule in φ, which converges geometrically.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from framework.settings import above, at_least

NODES = 4000


def bulk(alpha: float, nodes: int = NODES) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature nodes (eigenvalues) and weights for integrals over the bulk of ρ; the weights sum to min(1, α).

    Raises:
        UserError: α is not above 0.
    """
    above(0, alpha=alpha)
    at_least(1, nodes=nodes)
    phi = (np.arange(nodes) + 0.5) * math.pi / nodes
    lam = 1 + alpha + 2 * math.sqrt(alpha) * np.cos(phi)
    # dλ = 2 √α sin φ dφ, and the root is 2 √α sin φ
    weights = 4 * alpha * np.sin(phi) ** 2 / (2 * math.pi * lam) * math.pi / nodes
    return lam, weights


def density(lam: ArrayLike, alpha: float) -> np.ndarray:
    """Returns the bulk of ρ at λ, without the mass at 0.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha)
    lam = np.asarray(lam, dtype=float)
    inside = ((1 + math.sqrt(alpha)) ** 2 - lam) * (lam - (1 - math.sqrt(alpha)) ** 2)
    return np.sqrt(inside.clip(min=0)) / (2 * math.pi * np.where(lam > 0, lam, np.inf))


def _nodes(alpha: float, t: float) -> int:
    """Number of nodes with which eigenvalues near 0 are resolved until time t, if the bulk extends to 0."""
    near = abs(math.sqrt(alpha) - 1) < 0.1
    return max(NODES, int(200 * math.sqrt(min(max(t, 0.0), 1e10)))) if near and math.isfinite(t) else NODES


def generalization_error(t: ArrayLike, alpha: float, snr: float, inr: float = 0.0) -> np.ndarray:
    """E_g(t): mean squared error on new examples over the noise's variance, the noise included.

    1 + ∫ ρ [(SNR + INR) e^(−2λt) + (1 − e^(−λt))² / λ] dλ + (1 − α)₊ (SNR + INR).

    Args:
        t: Times, 0 or more; infinite for the end of training.
        alpha: Number of examples divided by the number of dimensions.
        snr: Variance of the teacher's weights, divided by that of the noise.
        inr: Variance of the student's initial weights, divided by that of the noise.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha)
    at_least(0, snr=snr, inr=inr)
    times = np.atleast_1d(np.asarray(t, dtype=float))
    found = np.empty(times.shape)
    for i, now in np.ndenumerate(times):
        if math.isinf(now):
            found[i] = final_error(alpha, snr, inr)
            continue
        lam, weights = bulk(alpha, _nodes(alpha, now))
        learnt = -np.expm1(-lam * now)
        bracket = (snr + inr) * (1 - learnt) ** 2 + learnt**2 / lam
        found[i] = 1 + weights @ bracket + max(0.0, 1 - alpha) * (snr + inr)
    return found.reshape(np.shape(t))


def training_error(t: ArrayLike, alpha: float, snr: float, inr: float = 0.0) -> np.ndarray:
    """E_t(t): mean squared error on the training examples over the noise's variance.

    (1/α) ∫ ρ [(SNR + INR) λ + 1] e^(−2λt) dλ + (1 − 1/α)₊.

    Args:
        t: Times, 0 or more; infinite for the end of training.
        alpha: Number of examples divided by the number of dimensions.
        snr: Variance of the teacher's weights, divided by that of the noise.
        inr: Variance of the student's initial weights, divided by that of the noise.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha)
    at_least(0, snr=snr, inr=inr)
    times = np.atleast_1d(np.asarray(t, dtype=float))
    found = np.empty(times.shape)
    for i, now in np.ndenumerate(times):
        lam, weights = bulk(alpha, _nodes(alpha, now))
        left = np.exp(-2 * lam * now) if math.isfinite(now) else np.zeros_like(lam)
        found[i] = (weights @ (((snr + inr) * lam + 1) * left)) / alpha + max(0.0, 1 - 1 / alpha)
    return found.reshape(np.shape(t))


def final_error(alpha: float, snr: float, inr: float = 0.0) -> float:
    """E_g at t = ∞; infinite at α = 1.

    Args:
        alpha: Number of examples divided by the number of dimensions.
        snr: Variance of the teacher's weights, divided by that of the noise.
        inr: Variance of the student's initial weights, divided by that of the noise.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, alpha=alpha, snr=snr, inr=inr)
    if alpha == 1:
        return math.inf
    if alpha < 1:
        return 1 + (1 - alpha) * (snr + inr) + alpha / (1 - alpha)
    return 1 + 1 / (alpha - 1)


def optimal_stop(alpha: float, snr: float, inr: float = 0.0) -> tuple[float, float]:
    """Returns the time at which E_g is smallest, and E_g at that time.

    Args:
        alpha: Number of examples divided by the number of dimensions.
        snr: Variance of the teacher's weights, divided by that of the noise.
        inr: Variance of the student's initial weights, divided by that of the noise.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha)
    at_least(0, snr=snr, inr=inr)
    if snr + inr == 0:
        return 0.0, 1.0  # there is nothing to learn
    scale = math.log1p((snr + inr) * (1 + alpha))
    grid = np.linspace(math.log(scale) - 6, math.log(scale) + 12, 120)
    values = generalization_error(np.exp(grid), alpha, snr, inr)
    best = int(values.argmin())
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    found = minimize_scalar(
        lambda x: float(generalization_error(math.exp(x), alpha, snr, inr)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(found.x), float(found.fun)


def mode_stop(lam: ArrayLike, snr: float, inr: float = 0.0) -> np.ndarray:
    """Returns the time at which an eigenvalue's part of E_g is smallest: ln(1 + (SNR + INR) λ) / λ.

    Args:
        lam: λ, 0 or more; at 0 the limit SNR + INR.
        snr: Variance of the teacher's weights, divided by that of the noise.
        inr: Variance of the student's initial weights, divided by that of the noise.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, snr=snr, inr=inr)
    lam = np.asarray(lam, dtype=float)
    total = np.asarray(snr + inr, dtype=float)
    return np.divide(np.log1p(total * lam), lam, out=np.broadcast_to(total, lam.shape).copy(), where=lam != 0)


def ridge_error(alpha: float, snr: float, penalty: float | None = None) -> float:
    """E_g of w = y Xᵀ (X Xᵀ + g I)⁻¹; by default with the best penalty g = 1/SNR.

    Args:
        alpha: Number of examples divided by the number of dimensions.
        snr: Variance of the teacher's weights, divided by that of the noise.
        penalty: g.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha)
    at_least(0, snr=snr, penalty=penalty)
    if penalty is None and snr == 0:
        return 1.0  # the best penalty is infinite
    g = 1 / snr if penalty is None else penalty
    lam, weights = bulk(alpha)
    return float(1 + weights @ ((g**2 * snr + lam) / (lam + g) ** 2) + max(0.0, 1 - alpha) * snr)
