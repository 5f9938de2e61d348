"""A linear network on one sample (Walker et al. 2025, arXiv 2506.12284): only the penalty aligns its Jacobian."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.functional.jacobian import grok_align


def train_linear(weight: Tensor, x: Tensor, y: Tensor, strength: float, rate: float, steps: int) -> Tensor:
    """Returns W after gradient descent on mean (W x - y)² + λ |W|_F; the Jacobian by x is W.

    Args:
        weight: W (C, d) at the start; not changed.
        x: The sample (d,).
        y: Its target (C,).
        strength: λ.
        rate: Learning rate.
        steps: Number of steps.
    """
    weight = weight.clone().requires_grad_()
    for _ in range(steps):
        sample = x[None].clone().requires_grad_()
        outputs = sample @ weight.T
        loss = (outputs - y).square().mean()
        if strength:
            loss = loss + strength * grok_align(outputs, sample, exact=True)
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= rate * gradient
    return weight.detach()


def across(weight: Tensor, x: Tensor) -> Tensor:
    """Returns W (I - x xᵀ / |x|²), the part of W that the sample does not see, (C, d)."""
    return weight - torch.outer(weight @ x, x) / x.square().sum()
