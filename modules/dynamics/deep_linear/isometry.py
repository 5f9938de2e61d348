"""The size of signals and gradients in deep random networks (Section 4, appendix G)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from framework.settings import at_least, finite
from modules.dynamics.deep_linear.initialisation import orthonormal


def product_spectrum(size: int, factors: int, orthogonal: bool, generator: torch.Generator) -> Tensor:
    """Singular values of a product of random N x N matrices, orthogonal or Gaussian of variance 1/N.

    All have the same relative precision; those below 1e-308 are 0. :func:`log_spectrum` has no such limit.

    Args:
        size: N.
        factors: Number of factors.
        orthogonal: Whether they are orthogonal.
        generator: Source of randomness.

    Returns:
        (N,), float64, in descending order.

    Raises:
        UserError: a size is not accepted.
    """
    at_least(1, size=size)
    at_least(0, factors=factors)
    return log_spectrum(random_factors(size, factors, orthogonal, generator), size).exp()


def random_factors(size: int, factors: int, orthogonal: bool, generator: torch.Generator) -> Iterator[Tensor]:
    """Draws N x N matrices, (N, N) float64 each.

    Args:
        size: N.
        factors: Number of matrices.
        orthogonal: Whether they are orthogonal, else Gaussian of variance 1/N.
        generator: Source of randomness.
    """
    for _ in range(factors):
        if orthogonal:
            yield orthonormal(size, size, generator)
        else:
            yield torch.randn(size, size, dtype=torch.float64, generator=generator) / size**0.5


def log_spectrum(factors: Iterable[Tensor], size: int) -> Tensor:
    """Logarithms of the singular values of a product; over the number of random factors they are Lyapunov exponents.

    The product is accumulated by QR as Q diag(e^d) T with a triangular T of moderate entries, so that the smallest
    values are not lost in the rounding of the largest.

    Args:
        factors: Invertible matrices (N, N), float64; the first is the rightmost of the product.
        size: N.

    Returns:
        (N,), float64, in descending order.
    """
    basis, unit = torch.eye(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    logs = torch.zeros(size, dtype=torch.float64)
    for factor in factors:
        basis, r = torch.linalg.qr(factor @ basis)
        diagonal = r.diagonal().abs()
        unit = ((r / diagonal[:, None]) * (logs - logs[:, None]).triu().exp()) @ unit
        logs = logs + diagonal.log()
    return _log_singular_values(unit, logs)


def _log_singular_values(rows: Tensor, logs: Tensor) -> Tensor:
    """Returns the logarithms of the singular values of ``logs.exp()[:, None] * rows``, (N,) in descending order.

    One-sided Jacobi rotations, N/2 pairs of rows at a time. Rows have a norm of 1, and the logarithms of their lengths
    are apart, so that rows of any lengths keep their precision.

    Args:
        rows: (N, N).
        logs: (N,).
    """
    size = len(logs)
    order, half = torch.arange(size + size % 2), (size + 1) // 2
    norms = rows.norm(dim=1)
    rows, logs = rows / norms[:, None], logs + norms.log()
    largest = 1.0
    while size > 1 and largest > 1e-13:
        largest = 0.0
        for _ in range(len(order) - 1):  # a round of a tournament: each pair meets once in a sweep
            pairs = torch.stack([order[:half], order[half:].flip(0)])
            pairs = pairs[:, (pairs < size).all(0)]
            i, j = torch.where(logs[pairs[0]] < logs[pairs[1]], pairs.flip(0), pairs)
            a, b, ratio = rows[i], rows[j], (logs[j] - logs[i]).exp()
            cosine = (a * b).sum(1)
            gap = 1 - ratio**2
            turn = 2 * cosine / (gap + (gap**2 + (2 * ratio * cosine) ** 2).sqrt()).clamp(min=1e-300)
            for own, turned in (
                (i, torch.addcmul(a, (ratio**2 * turn)[:, None], b)),
                (j, torch.addcmul(b, turn[:, None], a, value=-1)),
            ):
                norms = turned.norm(dim=1)
                rows[own] = turned / norms[:, None]
                logs[own] += norms.log() - torch.log1p((ratio * turn) ** 2) / 2
            largest = max(largest, float(cosine.abs().max()))
            order = torch.cat([order[:1], order[-1:], order[1:-1]])
    return logs.sort(descending=True)[0]


def tanh_network(gain: float, size: int, depth: int, start: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns x ← g W tanh(x) with W orthogonal, from a Gaussian x of variance ``start``.

    Args:
        gain: g.
        size: N.
        depth: Layers.
        start: Variance of the first x.
        generator: Source of randomness.

    Returns:
        The variance |x|²/N after each layer (depth,), and the Jacobian of the last x by the first (N, N), whose
        singular values below 1e-16 of the largest are rounding errors.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, size=size, depth=depth)
    at_least(0, start=start)
    finite(gain=gain)
    x = start**0.5 * torch.randn(size, dtype=torch.float64, generator=generator)
    jacobian = torch.eye(size, dtype=torch.float64)
    variances = []
    for _ in range(depth):
        weight = gain * orthonormal(size, size, generator)
        jacobian = weight @ ((1 - x.tanh().square())[:, None] * jacobian)
        x = weight @ x.tanh()
        variances.append(x.square().mean())
    return torch.stack(variances), jacobian
