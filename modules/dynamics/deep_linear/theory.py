"""Exact learning curves of deep linear networks.

Equation numbers are those of Saxe et al. 2014 (arXiv 1312.6120). τ is one over the learning rate, t counts iterations,
s is a mode's strength in Σ31 and u its strength in the network; Σ11 = I.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.integrate import quad
from scipy.optimize import brentq

from framework.functional.ntk import ACTIVATIONS
from framework.settings import above, at_least, between


def strength(t: ArrayLike, s: ArrayLike, u0: ArrayLike, tau: float = 1.0, d: ArrayLike = 1.0) -> np.ndarray:
    """Returns u(t) of two layers that start equal (eq. 12): τ u' = 2 u (s − d u).

    Args:
        t: Iterations.
        s: Strength in Σ31.
        u0: At t = 0.
        tau: τ.
        d: The input's variance along the mode if Σ11 has the task's axes (appendix E); 1 for white input.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, tau=tau)
    t, s, u0, d = (np.asarray(x, dtype=float) for x in (t, s, u0, d))
    left, gone = np.exp(-2 * s * t / tau), -np.expm1(-2 * s * t / tau)
    limit = np.broadcast_to(2 * t / tau, np.shape(gone)).copy()  # of gone / s at s = 0
    learnt = np.divide(gone, s, out=limit, where=s != 0)
    return u0 / np.where(u0 == 0, 1, left + u0 * d * learnt)


def learning_time(s: ArrayLike, u0: ArrayLike, uf: ArrayLike, tau: float = 1.0) -> np.ndarray:
    """Iterations from u0 to uf (eq. 11); infinite from 0 or to s, and NaN for numbers outside.

    Args:
        s: The mode's strength, above 0; all arguments broadcast.
        u0: Start, between 0 and s.
        uf: End, between 0 and s.
        tau: τ.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, tau=tau)
    s, u0, uf = (np.asarray(x, dtype=float) for x in (s, u0, uf))
    with np.errstate(divide="ignore", invalid="ignore"):
        return tau / (2 * s) * np.log(uf * (s - u0) / (u0 * (s - uf)))


def unequal_time(s: float, a0: float, b0: float, uf: float, tau: float = 1.0) -> float:
    """Iterations until a b = uf of τ a' = b (s − a b), τ b' = a (s − a b) from a0 and b0 above 0 (appendix A).

    With the conserved c0 = |a² − b²| and u = a b it is τ u' = √(c0² + 4 u²) (s − u), hence

        t = (τ / q) [log((c0² + 4 s u + q √(c0² + 4 u²)) / (s − u))] from u = a0 b0 to uf,  q = √(c0² + 4 s²),

    a sum of positive terms, which becomes eq. 11 at a0 = b0. The appendix's form in θ = arsinh(2 u / c0) is not defined
    there, and its ``a b = c0 sinh θ`` and ``τ θ' = s − c0 sinh θ`` are each a factor 2 off.

    Args:
        s: The mode's strength, above 0.
        a0: Start of a.
        b0: Start of b, with a0 b0 below s.
        uf: End of a b, above 0 and below s.
        tau: τ.

    Raises:
        UserError: a number is not accepted.
    """
    above(0, s=s, a0=a0, b0=b0, tau=tau)
    u0 = a0 * b0
    between(0, s, "()", **{"a0 b0": u0}, uf=uf)
    c0 = abs(a0 - b0) * (a0 + b0)
    q = math.hypot(c0, 2 * s)

    def top(u: float) -> float:
        return c0**2 + 4 * s * u + q * math.hypot(c0, 2 * u)

    return tau / q * (math.log(top(uf) / top(u0)) + math.log((s - u0) / (s - uf)))


def depth_time(s: float, u0: float, uf: float, layers: int, tau: float = 1.0) -> float:
    """Iterations from u0 to uf of L equal factors: τ u' = L u^(2 − 2/L) (s − u) (eq. 15).

    Args:
        s: Strength of the mode.
        u0: Product at the start.
        uf: Product at the end, below s.
        layers: L, weight matrices (N_l − 1).
        tau: τ.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, s=s, tau=tau)
    at_least(1, layers=layers)
    between(0, s, "()", u0=u0, uf=uf)
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

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, s=s, tau=tau)
    between(0, s, "()", u0=u0, uf=uf)
    return tau * (math.log(uf * (u0 - s) / (u0 * (uf - s))) / s**2 + 1 / (s * u0) - 1 / (s * uf))


def largest_step(s: float, layers: int) -> float:
    """Returns one over the largest curvature at the optimum, L s^((2 N_l − 4)/(N_l − 1)), N_l = L + 1 (eq. 41).

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, s=s)
    at_least(1, layers=layers)
    return float(1 / (layers * s ** ((2 * layers - 2) / layers)))


def tree_strengths(depth: int = 5, flip: float = 0.1, features: int = 1000) -> dict[int, tuple[float, int]]:
    """Expected modes of the hierarchical data: split level to strength and multiplicity; level 0 is the common mode.

    Args:
        depth: Of the binary tree, 2^depth items.
        flip: Probability that a child differs from its parent, for each feature.
        features: Outputs.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, depth=depth)
    at_least(1, features=features)
    between(0, 1, flip=flip)
    q = (1 - 2 * flip) ** 2

    def shared(last: int) -> float:
        return 1 + sum(2 ** (j - 1) * q**j for j in range(1, last + 1))

    found = {-1: (math.sqrt(features * shared(depth)), 1)}
    for level in range(depth):
        value = shared(depth - 1 - level) - 2 ** (depth - 1 - level) * q ** (depth - level)
        found[level] = (math.sqrt(features * max(0.0, value)), 2**level)
    return found


def tanh_variance(gain: float) -> float:
    """q_∞ of q ← g² E_z[tanh(√q z)²], z ~ N(0, 1): the limit of the activations' variance in a deep tanh network.

    It is 0 up to g = 1, and else the only positive fixed point (Section 4).

    Args:
        gain: g, from 0.

    Raises:
        UserError: the gain is not accepted.
    """
    at_least(0, gain=gain)
    if gain <= 1:
        return 0.0

    def growth(q: float) -> float:
        variance = torch.tensor(q, dtype=torch.float64)
        return gain**2 * float(ACTIVATIONS["tanh"].dual(variance, variance, variance)[0]) / q - 1

    # x² − ⅔ x⁴ ≤ tanh(x)² ≤ 1
    return float(brentq(growth, (1 - gain**-2) / 2, gain**2, xtol=1e-14, rtol=1e-12))
