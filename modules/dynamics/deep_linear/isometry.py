"""The size of signals and gradients in deep random networks (Section 4, appendix G)."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.dynamics.deep_linear.initialisation import orthonormal


def product_spectrum(size: int, factors: int, orthogonal: bool, generator: torch.Generator) -> Tensor:
    """Singular values of a product of random N x N matrices, orthogonal or Gaussian of variance 1/N.

    Args:
        size: N.
        factors: Number of factors.
        orthogonal: Whether they are orthogonal.
        generator: Source of randomness.

    Returns:
        (N,), float64, in descending order.
    """
    total = torch.eye(size, dtype=torch.float64)
    for _ in range(factors):
        if orthogonal:
            total = orthonormal(size, size, generator) @ total
        else:
            total = torch.randn(size, size, dtype=torch.float64, generator=generator) @ total / size**0.5
    return torch.linalg.svdvals(total)


def tanh_network(gain: float, size: int, depth: int, start: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns x ← g W tanh(x) with W orthogonal, from a Gaussian x of variance ``start``.

    Args:
        gain: g.
        size: N.
        depth: Layers.
        start: Variance of the first x.
        generator: Source of randomness.

    Returns:
        The variance |x|²/N after each layer (depth,), and the Jacobian of the last x by the first (N, N).
    """
    x = start**0.5 * torch.randn(size, dtype=torch.float64, generator=generator)
    jacobian = torch.eye(size, dtype=torch.float64)
    variances = []
    for _ in range(depth):
        weight = gain * orthonormal(size, size, generator)
        jacobian = weight @ ((1 - x.tanh().square())[:, None] * jacobian)
        x = weight @ x.tanh()
        variances.append(x.square().mean())
    return torch.stack(variances), jacobian
