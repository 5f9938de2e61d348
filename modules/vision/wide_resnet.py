"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146) for small images, without biases."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.settings import at_least


class WideBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, with a shortcut.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and the shortcut.
        second_norm: Whether the second convolution has a norm before it.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, second_norm: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm2: nn.Module = nn.BatchNorm2d(channels) if second_norm else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = stride == 1 and channels_in == channels
        self.shortcut = None if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` to ``(B, channels, H / stride, W / stride)``."""
        y = F.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(y)
        return kept + self.conv2(F.relu(self.norm2(self.conv1(y))))


class WideResNet(nn.Module):
    """WRN-``depth``-``factor``: a stem of 16 channels, three stages of 16, 32 and 64 times ``factor``, linear head.

    Args:
        depth: Total number of convolutions, 6n + 4: 10, 16, 22, 28, 40, ….
        factor: k, factor of the width.
        num_classes: Outputs.
        in_chans: Channels of the images.
        second_norm: Whether each block's second convolution has a norm before it; MixtureGrowth's networks have none.

    Raises:
        UserError: the depth is not of this form, or the factor is below 1.
    """

    def __init__(
        self, depth: int = 28, factor: int = 10, num_classes: int = 10, in_chans: int = 3, second_norm: bool = True
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UserError(f"depth: {depth} of a wide ResNet is not accepted; 10, 16, 22, 28, 40, … (6n + 4)")
        at_least(1, factor=factor)
        self.conv = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        before = 16
        for stage in range(3):
            for block in range((depth - 4) // 6):
                channels = 16 * factor * 2**stage
                blocks.append(WideBlock(before, channels, 2 if stage and not block else 1, second_norm))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def get_classifier(self) -> nn.Module:
        """Returns the linear head."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``; the mean is taken over all positions."""
        return self.head(F.relu(self.norm(self.blocks(self.conv(x)))).mean((2, 3)))
