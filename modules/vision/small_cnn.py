"""A small convolutional network, with or without normalisation and biases."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from framework.settings import at_least, one_of

Norm = Literal["batch", "instance", "none"]
NORMS = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


class SmallCNN(nn.Module):
    """Three convolutions of 3x3, each with normalisation and ReLU, a max-pooling after the first; their mean over the
    image; a linear head.

    Its methods have timm's names, so that code for timm models works on it.

    Args:
        image_size: Side of the images in pixels, at least 2; at least 4 with ``instance``, which needs two values.
        in_chans: Channels of the images.
        num_classes: Outputs of the head.
        width: Channels of the first convolution; the others have twice as many.
        norm: ``batch``, ``instance`` or ``none``.
        bias: Whether convolutions and head have biases.
        drop_rate: Dropout before the head.

    Raises:
        UserError: the width is below 1, the images are too small, or there is no such normalisation.
    """

    def __init__(
        self,
        image_size: int = 8,
        in_chans: int = 1,
        num_classes: int = 10,
        width: int = 16,
        norm: Norm = "batch",
        bias: bool = True,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        at_least(1, width=width)
        one_of(get_args(Norm), norm=norm)
        at_least(4 if norm == "instance" else 2, image_size=image_size)
        self.num_classes, self.num_features = num_classes, 2 * width

        def block(inputs: int, outputs: int) -> list[nn.Module]:
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)]
            if norm in NORMS:
                layers.append(NORMS[norm](outputs, affine=True))
            return [*layers, nn.ReLU(inplace=True)]

        self.features = nn.Sequential(
            *block(in_chans, width), nn.MaxPool2d(2), *block(width, 2 * width), *block(2 * width, 2 * width)
        )
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(2 * width, num_classes, bias=bias)

    def get_classifier(self) -> nn.Module:
        """Returns the linear head."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to ``(B, num_features)``."""
        return self.features(x).mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps features to logits ``(B, num_classes)``, or returns the features with ``pre_logits``."""
        return x if pre_logits else self.head(self.dropout(x))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, C, H, W)`` to logits ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))
