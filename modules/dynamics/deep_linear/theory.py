"""Exact learning curves of deep linear networks.

Equation numbers are those of Saxe et al. 2014 (arXiv 1312.6120). τ is one over the learning rate, t counts iterations,
s is a mode's strength in Σ31 and u its strength in the network; Σ11 = I.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import quad


def strength(t: ArrayLike, s: ArrayLike, u0: ArrayLike, tau: float = 1.0, d: ArrayLike = 1.0) -> np.ndarray:
    """Returns u(t) of two layers that start equal (eq. 12): τ u' = 2 u (s − d u).

    Args:
        t: Iterations.
        s: Strength in Σ31.
        u0: At t = 0.
        tau: τ.
        d: The input's variance along the mode if Σ11 has the task's axes (appendix E); 1 for white input.
    """
    t, s, u0, d = (np.asarray(x, dtype=float) for x in (t, s, u0, d))
    top = s / d
    return top / (1 + (top / u0 - 1) * np.exp(-2 * s * t / tau))


def learning_time(s: ArrayLike, u0: ArrayLike, uf: ArrayLike, tau: float = 1.0) -> np.ndarray:
    """Iterations from u0 to uf (eq. 11).

    Args:
        s: The mode's strength, above 0; all arguments broadcast.
        u0: Start, between 0 and s.
        uf: End, between 0 and s.
        tau: τ.
    """
    s, u0, uf = (np.asarray(x, dtype=float) for x in (s, u0, uf))
    return tau / (2 * s) * np.log(uf * (s - u0) / (u0 * (s - uf)))


def unequal_time(s: float, a0: float, b0: float, uf: float, tau: float = 1.0) -> float:
    """Iterations until a b = uf of τ a' = b (s − a b), τ b' = a (s − a b) from a0 ≠ b0, both above 0 (appendix A).

    The appendix prints ``a b = c0 sinh θ`` and ``τ θ' = s − c0 sinh θ``, each a factor 2 off; with the right ones,

        t = (2 τ / q) [artanh((c0 + 2 s tanh(θ/2)) / q)] from θ0 to θf,  q = √(c0² + 4 s²),  θ = arsinh(2 a b / c0).

    Args:
        s: The mode's strength, above 0.
        a0: Start of a.
        b0: Start of b.
        uf: End of a b, below s.
        tau: τ.
    """
    c0 = abs(a0**2 - b0**2)
    if c0 == 0:
        return float(learning_time(s, a0 * b0, uf, tau))
    q = math.hypot(c0, 2 * s)

    def at(u: float) -> float:
        return math.atanh((c0 + 2 * s * math.tanh(math.asinh(2 * u / c0) / 2)) / q)

    return 2 * tau / q * (at(uf) - at(a0 * b0))


def depth_time(s: float, u0: float, uf: float, layers: int, tau: float = 1.0) -> float:
    """Iterations from u0 to uf of L equal factors: τ u' = L u^(2 − 2/L) (s − u) (eq. 15).

    Args:
        s: Strength of the mode.
        u0: Product at the start.
        uf: Product at the end, below s.
        layers: L, weight matrices (N_l − 1).
        tau: τ.
    """
    power = 2 - 2 / layers
    # in log u the integrand is smooth
    value, _ = quad(
        lambda x: math.exp(x * (1 - power)) / (s - math.exp(x)), math.log(u0), math.log(uf), epsabs=0, epsrel=1e-10
    )
    return tau / layers * float(value)


def infinite_depth_time(s: float, u0: float, uf: float, tau: float = 1.0) -> float:
    """N_l times the iterations from u0 to uf as N_l → ∞ (eq. 17).

    Args:
        s: The mode's strength, above 0.
        u0: Start, between 0 and s.
        uf: End, between 0 and s.
        tau: τ.
    """
    return tau * (math.log(uf * (u0 - s) / (u0 * (uf - s))) / s**2 + 1 / (s * u0) - 1 / (s * uf))


def largest_step(s: float, layers: int) -> float:
    """Returns one over the largest curvature at the optimum, L s^((2 N_l − 4)/(N_l − 1)), N_l = L + 1 (eq. 41)."""
    return float(1 / (layers * s ** ((2 * layers - 2) / layers)))


def tree_strengths(depth: int = 5, flip: float = 0.1, features: int = 1000) -> dict[int, tuple[float, int]]:
    """Expected modes of the hierarchical data: split level to strength and multiplicity; level 0 is the common mode.

    Args:
        depth: Of the binary tree, 2^depth items.
        flip: Probability that a child differs from its parent, for each feature.
        features: Outputs.
    """
    q = (1 - 2 * flip) ** 2

    def shared(last: int) -> float:
        return 1 + sum(2 ** (j - 1) * q**j for j in range(1, last + 1))

    found = {-1: (math.sqrt(features * shared(depth)), 1)}
    for level in range(depth):
        value = shared(depth - 1 - level) - 2 ** (depth - 1 - level) * q ** (depth - level)
        found[level] = (math.sqrt(features * value), 2**level)
    return found


def tanh_variance(gain: float, steps: int = 2000, nodes: int = 200) -> float:
    """q_∞ of q ← g² E_z[tanh(√q z)²], the limit of the activations' variance in a deep tanh network (Section 4).

    Args:
        gain: g.
        steps: Iterations from q = 1.
        nodes: Of the quadrature over z ~ N(0, 1).
    """
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    q = 1.0
    for _ in range(steps):
        q = gain**2 * float(w @ np.tanh(math.sqrt(q) * x) ** 2)
    return q
