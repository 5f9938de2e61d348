"""A linear rule, which every linear head is equal to, and the scaling of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LinearRule:
    """Predicts the class with the largest score ``x Wᵀ + b``.

    Attributes:
        weight: W (K, n).
        bias: b (K,).
    """

    weight: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """Returns the scores (N, K) of x (N, n)."""
        return torch.addmm(self.bias, x, self.weight.T)

    def error(self, x: Tensor, y: Tensor) -> float:
        """Returns the share of x (N, n) whose predicted class is not y (N,)."""
        return float((self.scores(x).argmax(1) != y).double().mean())

    def linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """Returns the rule as a linear layer."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], dtype=dtype, device=self.weight.device)
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            layer.bias.copy_(self.bias)
        return layer


@dataclass(frozen=True)
class RangeScaler:
    """Maps each feature's range over the fitted points to [0, 1]; other points are not clipped.

    Attributes:
        low: (n,) smallest values.
        width: (n,) ranges; 1 for a feature that is constant.
    """

    low: Tensor
    width: Tensor

    @classmethod
    def of(cls, x: Tensor) -> RangeScaler:
        """Fits a scaler to x (m, n)."""
        low, high = x.aminmax(dim=0)
        width = high - low
        return cls(low, torch.where(width > 0, width, torch.ones_like(width)))

    def __call__(self, x: Tensor) -> Tensor:
        """Scales x (…, n)."""
        return (x - self.low) / self.width
