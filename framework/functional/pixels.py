"""Units of images: normalised, as networks take them, or pixels from 0 to 1, in which changes are measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from framework.errors import UserError


def check_channels(values: Sequence[float], channels: int, name: str) -> None:
    """Checks that there is one value, or one for each channel.

    Args:
        values: The values.
        channels: Channels of the images.
        name: Of the setting, for messages.

    Raises:
        UserError: there are other numbers of values.
    """
    if len(values) not in (1, channels):
        raise UserError(f"{name}: {len(values)} values are not accepted; 1, or {channels} for the channels")


def per_channel(values: Sequence[float], x: Tensor, name: str) -> Tensor:
    """Returns one value for each channel in a shape that broadcasts with the inputs.

    Args:
        values: One for all channels, or one for each.
        x: Inputs (B, channels, …), or (B, d) with one value.
        name: Of the setting, for messages.

    Raises:
        UserError: there are other numbers of values than channels.
    """
    check_channels(values, x.shape[1] if x.ndim > 2 else 1, name)
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * max(x.ndim - 2, 0))


class PixelInputs(nn.Module):
    """A network of normalised inputs as one of pixels from 0 to 1.

    Args:
        net: Takes (p − mean)/std.
        mean: Of each channel, broadcasting with the inputs.
        std: Of each channel.
    """

    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net, self.mean, self.std = net, mean, std

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs (B, …) in [0, 1] to the network's outputs."""
        return self.net((x - self.mean) / self.std)


def in_pixels(net: nn.Module, x: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[nn.Module, Tensor]:
    """Returns a network of pixels from 0 to 1, and the pixels of normalised inputs (B, …).

    Args:
        net: The network of normalised inputs.
        x: Normalised inputs.
        mean: Of each channel, that normalisation subtracted.
        std: By which it divided.

    Raises:
        UserError: there are other numbers of values than channels.
    """
    if list(mean) == [0.0] and list(std) == [1.0]:
        return net, x
    centre, scale = per_channel(mean, x, "mean"), per_channel(std, x, "std")
    return PixelInputs(net, centre, scale), x * scale + centre
