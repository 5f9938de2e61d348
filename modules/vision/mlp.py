"""A plain multi-layer perceptron on flattened images: the smallest model for techniques."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from framework.settings import at_least


class MLP(nn.Module):
    """``depth`` hidden layers of ``width`` units, each with linear, GELU and dropout; then a linear head.

    Its methods have timm's names (``forward_features``, ``forward_head``, ``get_classifier``), so that code for timm
    models works on it.

    Args:
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.
        num_classes: Outputs of the head.
        width: Units of a hidden layer.
        depth: Hidden layers.
        drop_rate: Dropout after each hidden layer.

    Raises:
        UserError: the width or the depth is below 1.
    """

    def __init__(
        self,
        image_size: int = 28,
        in_chans: int = 1,
        num_classes: int = 10,
        width: int = 256,
        depth: int = 2,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, width=width, depth=depth)
        self.num_classes = num_classes
        self.num_features = width
        sizes = [in_chans * image_size**2] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(width, num_classes)

    def get_classifier(self) -> nn.Module:
        """Returns the linear head."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to the last hidden layer, ``(B, width)``."""
        x = x.flatten(1)
        for layer in self.layers:
            x = self.dropout(self.activation(layer(x)))
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps features ``(B, width)`` to logits ``(B, num_classes)``, or returns the features with ``pre_logits``."""
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, C, H, W)`` to logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))
