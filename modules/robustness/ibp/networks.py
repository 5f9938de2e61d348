"""The networks of certified training (Mao et al. 2024, arXiv 2306.10426), which normalise their own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.pixels import check_channels
from framework.settings import above, at_least, one_of

# (channels as multiples of the width, kernel, stride, padding), then the units of the hidden linear layers.
_CONVOLUTIONS: dict[str, tuple[tuple[tuple[int, int, int, int], ...], tuple[int, ...]]] = {
    "cnn_2": (((1, 3, 1, 1),), ()),
    "cnn_3": (((1, 5, 2, 2), (2, 4, 2, 1)), ()),
    "cnn_5": (((1, 3, 1, 1), (1, 4, 2, 1), (2, 4, 2, 1)), (512,)),
    **{
        f"cnn_{depth}": (((1, 3, 1, 1), (1, 3, 1, 1), (2, 3, 2, 1), *[(2, 3, 1, 1)] * (depth - 5)), (512,))
        for depth in (7, 9, 11, 13)
    },
}
NETWORKS = ("mlp", *_CONVOLUTIONS)
WIDTHS = {"mlp": 256, "cnn_7": 64, "cnn_9": 64, "cnn_11": 64, "cnn_13": 64}  # 16 of the others


class Normalise(nn.Module):
    """(x - mean)/std of each channel, within the network: eps stays in units where pixels are from 0 to 1.

    Args:
        mean: Of each channel, or one for all.
        std: Of each channel, or one for all, above 0.

    Raises:
        UserError: a deviation is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        above(0, std=list(std))
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        return (x - self.mean) / self.std


def certified_network(
    network: str,
    channels: int,
    image_size: int,
    num_classes: int,
    width: int | None = None,
    hidden: Sequence[int] | None = None,
    batch_norm: bool = False,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> nn.Sequential:
    """Builds a network of the paper: convolutions and linear layers with ReLU between.

    ``cnn_2``, ``cnn_3``, ``cnn_5``, ``cnn_7`` (the standard one), ``cnn_9``, ``cnn_11`` and ``cnn_13`` have that number
    of layers; ``mlp`` has linear layers alone.

    Args:
        network: Name of the network.
        channels: Of the images.
        image_size: Side of the images in pixels.
        num_classes: Outputs.
        width: Channels of the first convolution; the others are multiples of it. By default 64 from ``cnn_7`` on, and
            16. Of ``mlp`` the first hidden layer, by default 256.
        hidden: Units of the hidden linear layers instead of the network's own; of ``mlp`` those after the first.
        batch_norm: Whether a batch norm follows each convolution and hidden linear layer.
        mean: Of each channel, which the network subtracts.
        std: By which it divides.

    Raises:
        UserError: the network is not known, a size is below 1, or there are other numbers of means than channels.
    """
    one_of(NETWORKS, network=network)
    width = WIDTHS.get(network, 16) if width is None else width
    at_least(1, channels=channels, image_size=image_size, width=width, hidden=list(hidden or [1]))
    at_least(2, num_classes=num_classes)
    for name, values in (("mean", mean), ("std", std)):
        check_channels(values, channels, name)
    layers: list[nn.Module] = [] if tuple(mean) == (0.0,) and tuple(std) == (1.0,) else [Normalise(mean, std)]
    size, inputs = image_size, channels
    convolutions, units = _CONVOLUTIONS.get(network, ((), (width, 64)))
    if hidden is not None:
        units = (width, *hidden) if network == "mlp" else tuple(hidden)
    for times, kernel, stride, padding in convolutions:
        layers.append(nn.Conv2d(inputs, times * width, kernel, stride, padding))
        if batch_norm:
            layers.append(nn.BatchNorm2d(times * width))
        layers.append(nn.ReLU())
        inputs, size = times * width, (size + 2 * padding - kernel) // stride + 1
        if size < 1:
            raise UserError(f"image_size: {image_size} pixels are too few for {network}")
    layers.append(nn.Flatten())
    for a, b in pairwise((inputs * size * size, *units)):
        layers.append(nn.Linear(a, b))
        if batch_norm:
            layers.append(nn.BatchNorm1d(b))
        layers.append(nn.ReLU())
    last = units[-1] if units else inputs * size * size
    return nn.Sequential(*layers, nn.Linear(last, num_classes))
