"""Augmentation and preprocessing of a whole batch of small images."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.settings import one_of

Augment = Literal["none", "flip", "crop", "crop_flip"]


def random_flip(x: Tensor) -> Tensor:
    """Mirrors each image of ``(B, C, H, W)`` left to right with probability one half."""
    chosen = torch.rand(len(x)) < 0.5
    return torch.where(chosen[:, None, None, None], x.flip(-1), x)


def random_crop(x: Tensor, padding: int) -> Tensor:
    """Shifts each image of ``(B, C, H, W)`` by up to ``padding`` pixels either way, zeros moving in at the border."""
    b, c, h, w = x.shape
    padded = F.pad(x, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, b))
    rows = (top[:, None] + torch.arange(h))[:, None, :, None]
    columns = (left[:, None] + torch.arange(w))[:, None, None, :]
    return padded[torch.arange(b)[:, None, None, None], torch.arange(c)[None, :, None, None], rows, columns]


class BatchPreprocess:
    """Bytes to the model's input: augment, scale to [0, 1], resize, repeat grey, standardise.

    Random numbers come from torch's global generator.

    Args:
        image_size: Side of the output in pixels; the input is resized (bilinear, antialiased) where it differs.
        channels: Channels of the output; grey input is repeated.
        mean: Subtracted from each channel, in units where white is 1.
        std: Divides each channel afterwards.
        augment: One of :data:`Augment`; ``crop`` shifts by up to an eighth of the side.

    Raises:
        UserError: there is no such augmentation.
    """

    def __init__(
        self, image_size: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...], augment: Augment = "none"
    ) -> None:
        one_of(get_args(Augment), augment=augment)
        self.image_size = image_size
        self.channels = channels
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.augment = augment

    def __call__(self, x: Tensor) -> Tensor:
        """Maps uint8 ``(B, C, H, W)`` to float32 ``(B, channels, image_size, image_size)``."""
        if "crop" in self.augment:
            x = random_crop(x, max(1, x.shape[-1] // 8))
        if "flip" in self.augment:
            x = random_flip(x)
        x = x.float() / 255
        if x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return ((x - self.mean) / self.std).expand(-1, self.channels, -1, -1).contiguous()
