"""The Gaussian process and the tangent kernel of infinitely wide MLPs (Jacot et al., 2018, Prop. 1 and Thm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from framework.settings import at_least, one_of


class Activation(NamedTuple):
    """σ, its derivative and, if there is a closed form, (E[σ(u) σ(v)], E[σ'(u) σ'(v)]) of (Var u, Var v, Cov)."""

    value: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    dual: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


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


ActivationName = Literal["relu", "erf", "tanh"]

ACTIVATIONS: dict[ActivationName, Activation] = {
    "relu": Activation(torch.relu, lambda z: (z > 0).to(z.dtype), _relu_dual),
    "erf": Activation(torch.erf, lambda z: 2 / math.pi**0.5 * torch.exp(-z.square()), _erf_dual),
    "tanh": Activation(torch.tanh, lambda z: 1 - torch.tanh(z).square()),
}


def quadrature_dual(activation: Activation, a: Tensor, b: Tensor, c: Tensor, nodes: int = 40) -> tuple[Tensor, Tensor]:
    """Computes E[σ(u) σ(v)] and E[σ'(u) σ'(v)] by Gauss-Hermite quadrature, for smooth σ.

    Args:
        activation: σ.
        a: Variances of u, any shape.
        b: Variances of v.
        c: Covariances.
        nodes: Number of nodes in each of the two dimensions.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z = torch.as_tensor(points, dtype=c.dtype)
    w = torch.as_tensor(weights / math.sqrt(2 * math.pi), dtype=c.dtype)
    deviation = a.sqrt().clamp(min=torch.finfo(c.dtype).tiny)
    rest = (b - (c / deviation).square()).clamp(min=0).sqrt()
    u = deviation[..., None] * z
    value, slope = torch.zeros_like(c), torch.zeros_like(c)
    for node, weight in zip(
        z, w, strict=True
    ):  # one node of the second dimension at a time: memory grows with nodes, not with its square
        v = (c / deviation)[..., None] * z + (rest * node)[..., None]
        value = value + weight * (activation.value(u) * activation.value(v)) @ w
        slope = slope + weight * (activation.derivative(u) * activation.derivative(v)) @ w
    return value, slope


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
    chosen = ACTIVATIONS[activation]

    def dual(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return chosen.dual(a, b, c) if chosen.dual is not None else quadrature_dual(chosen, a, b, c)

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
