"""Observers that measure a classifier on the first samples of the first validation batch, after epochs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from framework.editing import Observer
from framework.errors import UserError
from framework.observing.probe import pair_of


class SampleObserver(Observer):
    """Keeps the first ``points`` samples of the first validation batch of a training.

    Attributes:
        points: Largest number of samples.
        every_n_epochs: Epochs from one measurement to the next.
        probe: Inputs (P, …) and classes (P,), on the CPU; ``None`` before the first batch.
        curve: ``step`` and the measurements, for each epoch that was due.
    """

    points: int
    every_n_epochs: int
    probe: tuple[Tensor, Tensor] | None = None
    curve: list[dict[str, float]]

    def try_out(self, trainer: pl.Trainer, module: pl.LightningModule, x: Tensor, y: Tensor) -> None:
        """Makes a first, cheap measurement, so that what cannot be measured ends the run at its start.

        Args:
            trainer: The Trainer.
            module: The module.
            x: The samples (P, …).
            y: Their classes (P,).

        Raises:
            UserError: it cannot be measured.
        """
        raise NotImplementedError

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether this process measures after the present epoch."""
        there = self.probe is not None and trainer.is_global_zero
        return there and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def samples(self, module: pl.LightningModule) -> tuple[Tensor, Tensor]:
        """Returns the samples on the module's device."""
        assert self.probe is not None
        x, y = (part.to(module.device) for part in self.probe)
        return x, y

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stores the first samples, and tries a measurement.

        Raises:
            UserError: the batch is not inputs and classes, or cannot be measured.
        """
        if self.probe is None and batch_idx == 0 and dataloader_idx == 0 and trainer.state.fn == "fit":
            x, y = pair_of(batch, f"techniques.{self.name}")
            if not x.is_floating_point() or y.is_floating_point() or y.ndim != 1:
                raise UserError(f"techniques.{self.name}: a batch must be inputs of floating type and classes (B,)")
            with torch.inference_mode(False):
                probe = x[: self.points].clone(), y[: self.points].clone()
            self.try_out(trainer, pl_module, *probe)
            self.probe = probe[0].cpu(), probe[1].cpu()

    def state_dict(self) -> dict[str, Any]:
        """Returns the samples and the measurements."""
        return {"probe": self.probe, "curve": [dict(entry) for entry in self.curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.probe, self.curve = state_dict["probe"], [dict(entry) for entry in state_dict["curve"]]
