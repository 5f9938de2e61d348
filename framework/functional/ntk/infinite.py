"""The Gaussian process and the tangent kernel of infinitely wide MLPs (Jacot et al., 2018, Prop. 1 and Thm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from framework.settings import at_least, finite, one_of


class Activation(NamedTuple):
    """σ, its derivative, and (E[σ(u) σ(v)], E[σ'(u) σ'(v)]) of (Var u, Var v, Cov)."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    dual: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _relu_dual(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    scale = (a * b).sqrt()
    cosine = torch.where(scale > 0, c / scale.clamp(min=torch.finfo(c.dtype).tiny), 1.0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    value = scale / (2 * math.pi) * (angle.sin() + (math.pi - angle) * cosine)
    return value, (math.pi - angle) / (2 * math.pi)


def _erf_dual(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    product = (1 + 2 * a) * (1 + 2 * b)
    value = 2 / math.pi * torch.asin((2 * c / product.sqrt()).clamp(-1, 1))
    return value, 4 / math.pi / (product - 4 * c.square()).sqrt()


@cache
def _mixture() -> tuple[list[float], list[float]]:
    """Returns 22 values κ² and their weights, with tanh(x) = E[erf(x / (κ √2))] for κ of Kolmogorov's distribution.

    By the trapezoidal rule in log κ², where the density is analytic: the expectations are exact to some 1e-12.
    """
    from scipy.stats import kstwobign

    step = 0.3
    squares = np.exp(-3.4 + step * np.arange(22))
    kappa = np.sqrt(squares)
    return squares.tolist(), (step * kstwobign.pdf(kappa) * kappa / 2).tolist()


def _tanh_dual(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Sums the closed forms for erf over tanh's mixture (Stefanski 1991, of the logistic distribution).

    With S² = (κ² + a)(κ'² + b) − c² they are 2/π arctan(c / S) and 2/π / S: smooth in log κ at any variance and
    correlation, so that the nodes do not depend on them.
    """
    gap = (a * b - c.square()).clamp(min=0)
    value, slope = torch.zeros_like(c), torch.zeros_like(c)
    squares, weights = _mixture()
    for square, weight in zip(squares, weights, strict=True):
        first = gap + square * b
        for other, weight_too in zip(squares, weights, strict=True):
            s = torch.add(first, a, alpha=other).add_(square * other).sqrt_()
            share = 2 / math.pi * weight * weight_too
            value.add_(torch.atan2(c, s), alpha=share)
            slope.add_(s.reciprocal_(), alpha=share)
    return value, slope


ActivationName = Literal["relu", "erf", "tanh"]

ACTIVATIONS: dict[ActivationName, Activation] = {
    "relu": Activation(torch.relu, lambda z: (z > 0).to(z.dtype), _relu_dual),
    "erf": Activation(torch.erf, lambda z: 2 / math.pi**0.5 * torch.exp(-z.square()), _erf_dual),
    "tanh": Activation(torch.tanh, lambda z: 1 - torch.tanh(z).square(), _tanh_dual),
}


def infinite_kernels(
    x: Tensor, y: Tensor | None = None, depth: int = 4, beta: float = 0.1, activation: ActivationName = "relu"
) -> tuple[Tensor, Tensor]:
    """Computes Σ^L and Θ^L: Σ¹ = x·y/n₀ + β², Σ^{l+1} = E[σσ] + β², Θ^{l+1} = Θ^l E[σ'σ'] + Σ^{l+1}, Θ¹ = Σ¹.

    Args:
        x: (N, n0).
        y: (N', n0); by default ``x``.
        depth: L, the number of weight matrices: L − 1 hidden layers.
        beta: Factor on the biases.
        activation: One of ``ACTIVATIONS``.

    Returns:
        The kernel of the Gaussian process at initialisation and the tangent kernel, (N, N'), float64.

    Raises:
        UserError: a setting is not accepted.
    """
    one_of(get_args(ActivationName), activation=activation)
    at_least(1, depth=depth)
    finite(beta=beta)
    at_least(1, **{"x: columns": x.shape[1]})
    dual = ACTIVATIONS[activation].dual
    left = x.double()
    right = left if y is None else y.double()
    variances = [points.square().sum(1) / points.shape[1] + beta**2 for points in (left, right)]
    nngp = left @ right.T / left.shape[1] + beta**2
    ntk = nngp
    for _ in range(depth - 1):
        a, b = (torch.broadcast_to(v, nngp.shape) for v in (variances[0][:, None], variances[1]))
        value, slope = dual(a, b, nngp)
        alone = [dual(v, v, v) for v in variances]
        if y is None:  # rounding of an angle near 0 would lose half of the digits
            value = value.diagonal_scatter(alone[0][0])
            slope = slope.diagonal_scatter(alone[0][1])
        variances = [own[0] + beta**2 for own in alone]
        nngp = value + beta**2
        ntk = ntk * slope + nngp
    return nngp, ntk
