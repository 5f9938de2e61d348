"""Small networks from picture to picture: super-resolution, and a U-Net."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.settings import at_least, multiple_of, one_of

Norm = Literal["instance", "batch", "none"]
_NORMS = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


class UpscalingNet(nn.Module):
    """Convolutions with ReLU at low resolution, then a pixel shuffle; bicubic interpolation beside them.

    Args:
        scale: Factor of the side.
        channels: Channels of the pictures.
        width: Channels within.
        depth: Convolutions of 3x3 after the first one, of 5x5; the last makes the pixels.
        skip: Whether bicubic interpolation is added, which is linear.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(self, scale: int = 2, channels: int = 1, width: int = 32, depth: int = 3, skip: bool = True) -> None:
        super().__init__()
        at_least(2, scale=scale)
        at_least(1, channels=channels, width=width, depth=depth)
        self.scale, self.skip = scale, skip
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 5, padding=2)]
        for _ in range(depth - 1):
            layers += [nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, padding=1)]
        layers += [nn.ReLU(inplace=True), nn.Conv2d(width, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to (B, C, scale h, scale w)."""
        out = self.body(x)
        return out + F.interpolate(x, scale_factor=self.scale, mode="bicubic") if self.skip else out


class UNet(nn.Module):
    """A U-Net: at each level convolution, normalisation and ReLU; halved by strided convolutions, doubled by
    interpolation, with the levels' features concatenated.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        width: Channels of the first level; doubled at each further one.
        levels: Number of times that the side is halved.
        norm: ``instance``, ``batch`` or ``none``.

    Raises:
        UserError: a size is not accepted, or there is no such normalisation.
    """

    def __init__(
        self, in_channels: int = 1, channels: int = 1, width: int = 16, levels: int = 2, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, channels=channels, width=width, levels=levels)
        one_of(get_args(Norm), norm=norm)
        self.levels, self.norm = levels, norm

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, padding=1)]
            if norm in _NORMS:
                layers.append(_NORMS[norm](outputs, affine=True))
            return nn.Sequential(*layers, nn.ReLU(inplace=True))

        widths = [width * 2**level for level in range(levels + 1)]
        self.start = block(in_channels, width)
        self.down = nn.ModuleList(block(a, b, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(block(a + b, a) for a, b in pairwise(widths))
        self.end = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to (B, channels, H, W); H and W are multiples of 2^levels.

        Raises:
            UserError: they are not, or instance norm would have a single value for each channel.
        """
        multiple_of({f"2^{self.levels}, the network's levels": 2**self.levels}, height=x.shape[-2], width=x.shape[-1])
        if self.norm == "instance" and x.shape[-2:] == (2**self.levels,) * 2:
            raise UserError(
                f"levels: {self.levels} is not accepted with instance norm and pictures of {x.shape[-1]} pixels"
            )
        kept = [self.start(x)]
        for down in self.down:
            kept.append(down(kept[-1]))
        found = kept.pop()
        for up in reversed(list(self.up)):
            larger = F.interpolate(found, scale_factor=2.0, mode="bilinear")
            found = up(torch.cat([kept.pop(), larger], 1))
        return self.end(found)
