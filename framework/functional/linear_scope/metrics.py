"""What an interpreter measures of a network, as torchmetrics' metrics (arXiv 1908.05168)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.settings import above


def classes_of(values: Tensor) -> Tensor:
    """Returns the class (N,) of logits (N, C), or of a margin (N, 1): 1 where it is above 0."""
    return values.argmax(1) if values.shape[1] > 1 else (values[:, 0] > 0).long()


class BiasReliance(Metric):
    """How much a classifier's decisions rest on its bias parameters.

    ``compute`` returns the accuracy of f (``acc_full``), of the votes F x alone (``acc_votes``) and of r alone
    (``acc_bias``), and the mean of ‖r‖/‖f‖ (``norm_ratio``).
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, output: Tensor, residual: Tensor, target: Tensor) -> None:
        """Adds images.

        Args:
            output: f (N, C), or a margin (N, 1).
            residual: r, of the same shape.
            target: Classes (N,).
        """
        output, residual = output.double(), residual.double()
        right = [(classes_of(part) == target).sum() for part in (output, output - residual, residual)]
        ratio = (residual.norm(dim=1) / output.norm(dim=1).clamp(min=1e-300)).sum()
        self.sums += torch.stack([*(value.double() for value in right), ratio]).to(self.sums)
        self.count += len(target)

    def compute(self) -> dict[str, Tensor]:
        """Returns the four numbers."""
        names = ("acc_full", "acc_votes", "acc_bias", "norm_ratio")
        return dict(zip(names, self.sums / self.count, strict=True))


class DCGain(Metric):
    """The sum of a row of F: what an output makes of a constant image; ``compute`` returns ``mean`` and ``std``."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("total", "squares", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sums: Tensor) -> None:
        """Adds row sums, of any shape: F times an image of ones."""
        sums = sums.double()
        self.total += sums.sum()
        self.squares += sums.square().sum()
        self.count += sums.numel()

    def compute(self) -> dict[str, Tensor]:
        """Returns mean and standard deviation."""
        mean = self.total / self.count
        return {"mean": mean, "std": (self.squares / self.count - mean.square()).clamp(min=0).sqrt()}


class ColumnLocality(Metric):
    """The share of a column's energy near its place, the mean over columns.

    Args:
        radius: Largest distance from the place, in pixels of the output.

    Raises:
        UserError: the radius is not above 0.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    share: Tensor
    count: Tensor

    def __init__(self, radius: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        above(0, radius=radius)
        self.radius = radius
        for name in ("share", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, columns: Tensor, centres: Tensor) -> None:
        """Adds columns.

        Args:
            columns: (P, C, H, W).
            centres: (P, 2): row and column of each one's place in the output, which may lie between pixels.
        """
        energy = columns.double().square().sum(1)
        rows, cols = (torch.arange(n, device=energy.device, dtype=torch.float64) for n in energy.shape[1:])
        y, x = centres.to(energy).unbind(1)
        distance = ((rows[None, :, None] - y[:, None, None]) ** 2 + (cols[None, None] - x[:, None, None]) ** 2).sqrt()
        whole = energy.sum((1, 2))
        near = (energy * (distance <= self.radius)).sum((1, 2))
        self.share += (near / whole.clamp(min=1e-300)).sum()
        self.count += len(columns)

    def compute(self) -> Tensor:
        """Returns the mean share."""
        return self.share / self.count


def centres_of(places: Tensor, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Tensor:
    """Returns where in the output pixels of the input lie: (P, 2), rows and columns.

    Args:
        places: Channel, row and column of each pixel (P, 3).
        inputs: (C, h, w).
        outputs: (D, H, W).
    """
    factors = torch.tensor([outputs[-2] / inputs[-2], outputs[-1] / inputs[-1]], dtype=torch.float64)
    return (places[:, -2:].cpu().double() + 0.5) * factors - 0.5
