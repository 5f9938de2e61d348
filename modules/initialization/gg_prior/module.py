"""An image classifier whose evaluations measure its weights and prune them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from framework.editing import unique_parameters
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rate import bits_per_weight
from framework.module import OptimizerConfig, ScheduleConfig
from framework.settings import between
from modules.vision.image_classifier import ImageClassifier
from modules.vision.weights import WeightsHead

FINE, COARSE = 2.0**-13, 2.0**-10
"""The steps that weights are rounded to: the paper's, and one at which a small net's code is not mostly its table."""


def weight_report(weights: Iterable[Tensor]) -> dict[str, float]:
    """Measurements of some weights as one sample: ``shape``, ``bits``, ``entropy``, ``bits_10``, ``entropy_10``,
    ``sparsity``.

    Raises:
        UserError: a weight is not finite.
    """
    weights = [weight.detach() for weight in weights if weight.is_floating_point() and weight.numel()]
    fine, coarse = bits_per_weight(weights, FINE), bits_per_weight(weights, COARSE)
    return {
        "shape": gg.fit(weights).shape,
        "bits": fine.eg,
        "entropy": fine.entropy,
        "bits_10": coarse.eg,
        "entropy_10": coarse.entropy,
        "sparsity": fine.sparsity,
    }


def threshold_of(weights: Iterable[Tensor], share: float) -> float:
    """Returns the magnitude below which ``share`` of all weights lie: that of the (⌊share · n⌋ + 1)-th smallest."""
    magnitudes = torch.cat([weight.detach().abs().reshape(-1).float() for weight in weights])
    place = min(int(share * len(magnitudes)), len(magnitudes) - 1)
    return float(magnitudes.kthvalue(place + 1).values)


@contextmanager
def pruned(model: nn.Module, share: float) -> Iterator[None]:
    """A context manager in which the smallest ``share`` of all parameters (including norms and biases) is 0."""
    parameters = [p for p in unique_parameters(model).values() if p.is_floating_point()]
    limit = threshold_of(parameters, share)
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(parameter.abs() >= limit)
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)


class GGPrior(ImageClassifier):
    """Image classifier that measures the code length of its weights.

    Batches, logs and figures are those of :class:`~modules.vision.image_classifier.ImageClassifier`; it also logs
    ``weights/…`` (see the module's docstring) at each validation and test, and ``test/accuracy_pruned``.

    Args:
        backbone: A model of timm by name, or ``mlp``.
        num_classes: Classes.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.
        weights: Local file with pretrained weights of the backbone, also one that ``export`` compressed.
        weights_head: Whether the file's classifier head is used: ``if_fits``, ``skip`` or ``strict``.
        drop_rate: Dropout, in the places where the backbone has it.
        drop_path_rate: Stochastic depth.
        label_smoothing: Share of the target spread evenly over the classes, in training.
        mixup: Alpha of mixup's Beta distribution; 0 for none.
        cutmix: Alpha of CutMix's; 0 for none.
        mix_probability: Share of the batches that are mixed.
        backbone_args: Further arguments of the backbone's constructor.
        prune: Share of the parameters set to 0 for the pruned accuracy; 0 for no such measurement.
        optimizer: The optimiser; those of timm by name too.
        schedule: The learning-rate schedule.

    Raises:
        UserError: as the image classifier; the share to prune is not from 0 to below 1.
    """

    def __init__(
        self,
        backbone: str = "mlp",
        num_classes: int = 10,
        image_size: int = 8,
        in_chans: int = 1,
        weights: str | Path | None = None,
        weights_head: WeightsHead = "if_fits",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        backbone_args: dict[str, Any] | None = None,
        prune: float = 0.8,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(
            backbone,
            num_classes,
            image_size,
            in_chans,
            weights,
            weights_head,
            drop_rate,
            drop_path_rate,
            label_smoothing,
            mixup,
            cutmix,
            mix_probability,
            backbone_args,
            optimizer,
            schedule,
        )
        between(0, 1, "[)", prune=prune)
        self.save_hyperparameters()
        self.prune = prune
        self.test_accuracy_pruned = MulticlassAccuracy(num_classes, average="micro")

    def _log_weights(self) -> None:
        try:
            values = weight_report(unique_parameters(self).values())
        except UserError:  # a diverged run has no such measurements
            return
        for name, value in values.items():
            self.log(f"weights/{name}", value, rank_zero_only=True)

    def on_validation_epoch_end(self) -> None:
        """Logs the measurements of the weights."""
        self._log_weights()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Runs the image classifier's test step, then again with most of the parameters set to 0."""
        super().test_step(batch, batch_idx)
        if self.prune:
            x, y = batch
            with pruned(self, self.prune):
                self.test_accuracy_pruned.update(self(x), y)
            self.log("test/accuracy_pruned", self.test_accuracy_pruned, batch_size=len(y))

    def on_test_epoch_end(self) -> None:
        """Draws the confusion matrix; logs the measurements of the weights."""
        super().on_test_epoch_end()
        self._log_weights()
