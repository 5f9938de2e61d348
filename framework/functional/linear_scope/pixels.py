"""A network as one of raw pixels (arXiv 1908.05168)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardised(nn.Module):
    """A network of raw pixels: (x − mean) / std, then the network.

    A normalisation of the input moves mass between F x and r, so that what an image and what the biases contribute
    depends on it.

    Args:
        net: The network.
        mean: Subtracted from each channel.
        std: Divides each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float64).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float64).reshape(-1, 1, 1))

    def raw(self, x: Tensor) -> Tensor:
        """Maps the network's input to raw pixels."""
        return (x * self.std.to(x) + self.mean.to(x)).detach()

    def forward(self, x: Tensor) -> Tensor:
        """Maps raw pixels (N, C, H, W) to the network's output."""
        return self.net((x - self.mean.to(x)) / self.std.to(x))
