"""A small convolutional network, trained in seconds: the default supervised encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.data.seeding import seeded


class SmallEncoder(nn.Sequential):
    """Two convolutions of stride 2 and two linear layers; the last one reads the 128 features.

    Args:
        num_classes: Classes.
        image_size: Side of the images in pixels, at least 11.
        channels: Channels of the images.
    """

    def __init__(self, num_classes: int = 10, image_size: int = 28, channels: int = 1) -> None:
        side = ((image_size - 5) // 2 + 1 - 3) // 2 + 1
        super().__init__(
            nn.Conv2d(channels, 32, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * side * side, 128),
            nn.ReLU(),
            nn.Linear(128, num_classes),
        )


def train_small_encoder(
    x: Tensor, y: Tensor, num_classes: int, epochs: int = 10, lr: float = 2e-3, batch_size: int = 64, seed: int = 0
) -> SmallEncoder:
    """Trains a :class:`SmallEncoder` by Adam; deterministic, and without effect on the global generators.

    Args:
        x: Images (N, C, side, side).
        y: Classes (N,).
        num_classes: Number of classes.
        epochs: Passes over the images.
        lr: Learning rate.
        batch_size: Images in a step.
        seed: Seed of the initial weights and of the order.
    """
    with seeded(seed), torch.enable_grad():
        encoder = SmallEncoder(num_classes, x.shape[-1], x.shape[1])
        optimizer = torch.optim.Adam(encoder.parameters(), lr=lr)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(encoder(x[rows]), y[rows]).backward()
                optimizer.step()
    return encoder.eval()
