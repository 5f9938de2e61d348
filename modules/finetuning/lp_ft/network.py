"""Networks with a linear head: a perceptron for images, and a linear toy model for which the theory is exact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from framework.settings import at_least, not_empty


class TransferMLP(nn.Module):
    """φ, with hidden layers of GELU units and a linear last layer, then the head V.

    Args:
        inputs: Numbers of an example.
        widths: Widths of φ's layers; the last one is h.
        classes: C.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(self, inputs: int = 64, widths: Sequence[int] = (128, 128, 64), classes: int = 5) -> None:
        super().__init__()
        not_empty(widths=widths)
        at_least(1, inputs=inputs, widths=widths)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([inputs, *widths]):
            layers += [nn.Linear(narrow, wide), nn.GELU()]
        self.backbone = nn.Sequential(*layers[:-1])
        self.head = nn.Linear(widths[-1], classes)

    def get_classifier(self) -> nn.Module:
        """Returns the linear head."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, …) to logits (B, C)."""
        return self.head(self.backbone(x.flatten(1)))


class LinearToy(nn.Module):
    """f(x) = V B x + b (Kumar et al. 2022; the paper's Cor. 4.3).

    Θ^φ(x, x') = ⟨x, x'⟩ I_h, so the features of an x that is orthogonal to all training inputs never change, and
    F = ⟨x, x'⟩ V Vᵀ.

    Args:
        inputs: d.
        features: h.
        classes: C.
    """

    def __init__(self, inputs: int, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(inputs, features, bias=False)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, d) to (B, C)."""
        return self.head(self.backbone(x))
