"""A small convolutional network with group norm: no sample's output depends on the others of its batch."""

from __future__ import annotations

from torch import Tensor, nn

from framework.settings import at_least, multiple_of


class GroupNormCNN(nn.Module):
    """Three convolutions of stride 2 (5x5, then 3x3), each with group norm of four groups and ReLU; their mean over the
    image; a linear head.

    Its methods have timm's names, so that code for timm models works on it. As no layer couples the samples of a batch,
    it can be trained by per-sample gradients.

    Args:
        image_size: Side of the images in pixels, at least 5.
        in_chans: Channels of the images.
        num_classes: Outputs of the head.
        width: Channels of the first convolution, a multiple of 4; the others have two and four times as many.
        drop_rate: Dropout before the head.

    Raises:
        UserError: the width is no multiple of 4, or the images are too small.
    """

    def __init__(
        self, image_size: int = 28, in_chans: int = 1, num_classes: int = 10, width: int = 16, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        multiple_of(4, width=width)
        at_least(5, image_size=image_size)
        self.num_classes, self.num_features = num_classes, 4 * width
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in (
            (in_chans, width, 5),
            (width, 2 * width, 3),
            (2 * width, 4 * width, 3),
        ):
            convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
            layers += [convolution, nn.GroupNorm(4, outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(4 * width, num_classes)

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
