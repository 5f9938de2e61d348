"""The base class of classifiers: loss, accuracy, predictions, and the check against the data."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.settings import at_least


class Classifier(Module):
    """Trains ``self.net``, which a subclass sets, by cross-entropy.

    Batches are ``(x, y)``, ``y`` int64 ``(B,)``. Logs ``train/loss``, ``train/accuracy``, and under ``val/`` and
    ``test/`` also the values of :meth:`measures`.

    Args:
        num_classes: Number of classes.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: fewer than two classes; the datamodule has another number of them (in ``setup``).
    """

    net: nn.Module

    def __init__(
        self, num_classes: int, optimizer: OptimizerConfig | None = None, schedule: ScheduleConfig | None = None
    ) -> None:
        super().__init__(optimizer, schedule)
        at_least(2, num_classes=num_classes)
        self.num_classes = num_classes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def setup(self, stage: str) -> None:
        """Compares the datamodule's classes with the model's.

        Raises:
            UserError: they differ.
        """
        found = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        if found is not None and found != self.num_classes:
            raise UserError(f"model.init_args.num_classes: {self.num_classes}, but the data has {found}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to logits ``(B, num_classes)``."""
        return self.net(x)

    def augmented(self, x: Tensor) -> Tensor:
        """Returns the training inputs of a batch; a subclass can transform them."""
        return x

    def measures(self, logits: Tensor) -> dict[str, Tensor]:
        """Returns further scores (scalars) of a batch in an evaluation."""
        return {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the cross-entropy of a batch."""
        x, y = batch
        logits = self(self.augmented(x))
        loss = F.cross_entropy(logits, y)
        self.train_accuracy.update(logits.detach(), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y), sync_dist=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> None:
        """Logs the scores of a batch under ``part``: ``val`` or ``test``."""
        x, y = batch
        logits = self(x)
        metric = getattr(self, f"{part}_accuracy")
        metric.update(logits, y)
        self.log(f"{part}/accuracy", metric, prog_bar=part == "val", batch_size=len(y))
        for name, value in {"loss": F.cross_entropy(logits, y), **self.measures(logits)}.items():
            self.log(f"{part}/{name}", value, batch_size=len(y), sync_dist=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of a batch."""
        self.evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of a batch."""
        self.evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Probabilities ``(B, num_classes)`` and, where the batch has them, targets ``(B,)``."""
        return predictions(self, batch)


def predictions(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Probabilities ``(B, classes)`` of a batch (inputs, or inputs and targets), and its targets ``(B,)`` if any."""
    x, y = batch if isinstance(batch, tuple | list) else (batch, None)
    result = {"probabilities": model(x).softmax(-1)}
    return result if y is None else {**result, "target": y}
