"""Training of the networks that are interpreted here: super-resolution, and image to image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.module import Module, OptimizerConfig, ScheduleConfig
from modules.interpretability.linear_scope.networks import Norm, UNet, UpscalingNet
from modules.vision.image_classifier import ImageClassifier


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Returns the mean over pictures of 10 log10(1 / mean square error), white is 1."""
    error = (output.clamp(0, 1) - target).square().flatten(1).mean(1).clamp(min=1e-12)
    return -10 * torch.log10(error).mean()


class InterpretedClassifier(ImageClassifier):
    """An image classifier with any backbone of timm, ``cnn`` or the pretrained ``onet``, under this method's name."""


class _Pictures(Module):
    """Trains ``self.net`` by the mean absolute difference from the target picture."""

    net: nn.Module
    compared: tuple[tuple[str, str], ...]

    def setup(self, stage: str) -> None:
        """Compares the datamodule's sizes with the network's.

        Raises:
            UserError: they differ.
        """
        data = getattr(self.trainer, "datamodule", None)
        for own, theirs in self.compared:
            found, given = getattr(data, theirs, None), self.hparams[own]
            if found is not None and found != given:
                raise UserError(f"model.init_args.{own}: {given}, but {theirs} of {type(data).__name__} is {found}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps pictures (B, C, H, W) to pictures."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the mean absolute difference."""
        loss = F.l1_loss(self(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> None:
        x, y = batch
        output = self(x)
        self.log(f"{part}/loss", F.l1_loss(output, y), batch_size=len(x), sync_dist=True)
        self.log(f"{part}/psnr", psnr(output, y), batch_size=len(x), sync_dist=True, prog_bar=part == "val")
        for name, value in self.baselines(x, y).items():
            self.log(f"{part}/{name}", value, batch_size=len(x), sync_dist=True)

    def baselines(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Returns scores of simple methods on the same batch."""
        return {}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs loss and PSNR."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs loss and PSNR."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Returns the pictures (B, C, H, W)."""
        x = batch[0] if isinstance(batch, tuple | list) else batch
        return {"picture": self(x)}


class SuperResolution(_Pictures):
    """Super-resolution by a small convolutional network with a pixel shuffle.

    Batches are ``(low, high)`` in [0, 1]. Logs ``train/loss``, and ``val/`` and ``test/`` with ``loss`` (mean absolute
    difference), ``psnr`` and ``psnr_bicubic``.

    Args:
        scale: Factor of the side.
        channels: Channels of the pictures.
        width: Channels of the convolutions.
        depth: Convolutions of 3x3 after the first one.
        skip: Whether bicubic interpolation is added to the network's output.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule's scale or channels differ (in ``setup``).
    """

    compared = (("scale", "scale"), ("channels", "channels"))

    def __init__(
        self,
        scale: int = 2,
        channels: int = 1,
        width: int = 32,
        depth: int = 3,
        skip: bool = True,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.save_hyperparameters()
        self.net = UpscalingNet(scale, channels, width, depth, skip)

    def baselines(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Returns the PSNR of bicubic interpolation."""
        return {"psnr_bicubic": psnr(F.interpolate(x, y.shape[-2:], mode="bicubic"), y)}


class ImageToImage(_Pictures):
    """Translates pictures by a small U-Net.

    Batches are ``(a, b)`` in [0, 1]. Logs ``train/loss``, and ``val/`` and ``test/`` with ``loss`` (mean absolute
    difference) and ``psnr``.

    Args:
        in_channels: Channels of a.
        channels: Channels of b.
        width: Channels of the first level.
        levels: Number of times that the side is halved.
        norm: ``instance``, ``batch`` or ``none``.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the datamodule's channels differ (in ``setup``).
    """

    compared = (("in_channels", "in_channels"), ("channels", "channels"))

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 1,
        width: int = 16,
        levels: int = 2,
        norm: Norm = "instance",
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.save_hyperparameters()
        self.net = UNet(in_channels, channels, width, levels, norm)
