"""The limit spectrum of S + √t GOE: Marchenko-Pastur of ratio κ, free-convolved with a semicircle of variance t.

Maillard et al. 2024, arXiv 2408.03733. With x(g) = 1/g + t g + κ/(κ − g), the Stieltjes transform g(x) solves
t g³ − (x + κt) g² + (1 − κ + κx) g − κ = 0.
"""

from __future__ import annotations

import numpy as np

from framework.settings import above, at_least, finite_entries


def roots(x: np.ndarray, t: float, kappa: float) -> np.ndarray:
    """Returns the three roots g (N, 3), complex, of the cubic at x (N,).

    Args:
        x: Points (N,).
        t: Variance of the semicircle, above 0.
        kappa: κ, above 0.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, t=t, kappa=kappa)
    finite_entries(x=x)
    companion = np.zeros((len(x), 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1
    companion[:, 0, 2] = kappa / t
    companion[:, 1, 2] = -(1 - kappa + kappa * x) / t
    companion[:, 2, 2] = (x + kappa * t) / t
    return np.asarray(np.linalg.eigvals(companion).astype(complex))


def stieltjes(x: np.ndarray, t: float, kappa: float) -> np.ndarray:
    """Returns g (N,) at real x (N,): imaginary part π ρ(x), real part the Hilbert transform h(x).

    Outside the bulk all roots are real; the right one has x'(g) < 0 and, among those, the smallest |g|.

    Args:
        x: Points (N,).
        t: Variance of the semicircle, above 0.
        kappa: κ, above 0.
    """
    found = roots(x, t, kappa)
    inside = found[np.arange(len(x)), found.imag.argmax(1)]
    real = found.real
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = -1 / real**2 + t + kappa / (kappa - real) ** 2
    size = np.where(slope < 0, np.abs(real), np.inf)
    outside = real[np.arange(len(x)), size.argmin(1)]
    return np.where(inside.imag > 0, inside, outside)


def density(x: np.ndarray, t: float, kappa: float) -> np.ndarray:
    """Returns ρ_t(x) (N,).

    Args:
        x: Points (N,).
        t: Variance of the semicircle, above 0.
        kappa: κ, above 0.
    """
    return np.asarray(stieltjes(x, t, kappa).imag / np.pi)


def edges(t: float, kappa: float) -> np.ndarray:
    """Ends of the bulk in ascending order, (2,), or (4,) where a gap is open: x(g) at the real zeros of x'(g).

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, t=t, kappa=kappa)
    g = np.roots([t, -2 * kappa * t, t * kappa**2 - 1 + kappa, 2 * kappa, -(kappa**2)])
    g = g[np.abs(g.imag) < 1e-9 * (1 + np.abs(g))].real
    return np.sort(1 / g + t * g + kappa / (kappa - g))


def moment(t: float, kappa: float, power: int, nodes: int = 400) -> float:
    """Returns ∫ ρ_t(x)^power dx, with x = centre + half · cos φ on each interval, because the edges are square roots.

    Args:
        t: Variance of the semicircle, above 0.
        kappa: κ, above 0.
        power: Of the density.
        nodes: Of the quadrature on each interval.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, t=t, kappa=kappa)
    at_least(0, power=power)
    at_least(1, nodes=nodes)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    phi, weights = np.pi * (points + 1) / 2, np.pi * weights / 2
    ends, total = edges(t, kappa), 0.0
    for low, high in zip(ends[::2], ends[1::2], strict=True):
        half = (high - low) / 2
        values = density((high + low) / 2 + half * np.cos(phi), t, kappa)
        total += float(np.sum(weights * half * np.sin(phi) * values**power))
    return total
