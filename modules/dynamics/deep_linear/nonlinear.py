"""The same networks with tanh between the layers: outputs, loss and gradient on the examples, for many members.

Saxe, McClelland, Ganguli 2014, arXiv 1312.6120, Fig. 3 and Section 4: ŷ = W^L tanh(W^(L−1) ⋯ tanh(W^1 x)). Weights are
lists of L tensors (E, N_(l+1), N_l), first layer first; X (N_1, P) and Y (N_(L+1), P) have a column for each example.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def activities(weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """The input of each layer, X first, and then the output ŷ: L + 1 tensors (E, N_l, P)."""
    found = [x.expand(len(weights[0]), -1, -1)]
    for weight in weights[:-1]:
        found.append((weight @ found[-1]).tanh())
    return [*found, weights[-1] @ found[-1]]


def tanh_losses(weights: Sequence[Tensor], x: Tensor, y: Tensor, count: Tensor) -> Tensor:
    """Returns ½ Σ |y − ŷ|² / ``count`` of each member (E,).

    Args:
        weights: W^1 … W^L.
        x: X (N_1, P).
        y: Y (N_(L+1), P).
        count: Divisor of the sums, ().
    """
    return 0.5 * (activities(weights, x)[-1] - y).square().sum((-2, -1)) / count


def tanh_gradients(weights: Sequence[Tensor], x: Tensor, y: Tensor, count: Tensor) -> list[Tensor]:
    """Gradients of :func:`tanh_losses`, first layer first.

    Args:
        weights: W^1 … W^L.
        x: X (N_1, P).
        y: Y (N_(L+1), P).
        count: Divisor of the sums, ().
    """
    *inside, output = activities(weights, x)
    error = (output - y) / count
    found = []
    for weight, before in zip(reversed(weights[1:]), reversed(inside[1:]), strict=True):
        found.append(error @ before.mT)
        error = (weight.mT @ error) * (1 - before.square())
    return [*found, error @ inside[0].mT][::-1]


def correlation(weights: Sequence[Tensor], x: Tensor, count: Tensor) -> Tensor:
    """Returns Σ ŷ xᵀ / ``count`` (E, N_(L+1), N_1): the network's own Σ31, from which its modes are computed.

    Args:
        weights: W^1 … W^L.
        x: X (N_1, P).
        count: Divisor of the sum, ().
    """
    return activities(weights, x)[-1] @ x.mT / count


def jacobian_spectrum(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """Singular values of ∂ŷ/∂x (E, min(N_(L+1), N_1)) at one input x (N_1,), largest first."""
    *inside, _ = activities(weights, x[:, None])
    total = weights[0]
    for weight, before in zip(weights[1:], inside[1:], strict=True):
        total = weight @ ((1 - before.square()) * total)
    return torch.linalg.svdvals(total)
