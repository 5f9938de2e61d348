"""Observers that measure the module on the same few inputs during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure
from framework.functional.evaluating import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn


def pair_of(batch: Any, technique: str = "probe") -> tuple[Tensor, Tensor]:
    """Returns inputs and targets of a batch: a pair, or a mapping with ``x`` and ``y``.

    Raises:
        UserError: the batch has another form.
    """
    pair = (batch.get("x"), batch.get("y")) if isinstance(batch, Mapping) else batch
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        raise UserError(f"{technique}: a batch must be inputs and targets, or hold x and y")
    return pair[0], pair[1]


def probe_of(batch: Any, points: int, technique: str = "probe") -> tuple[Tensor, Tensor]:
    """Returns inputs (P, …) and targets (P, C) of a batch's first points; it is a pair or a mapping with ``x`` and
    ``y``.

    Classes become one-hot vectors minus their mean.

    Args:
        batch: Inputs (B, …) with targets (B, …) of a floating type, or with classes.
        points: Largest number of points P.
        technique: Name of the technique, for messages.

    Raises:
        UserError: the batch has another form.
    """
    pair = pair_of(batch, technique)
    x, y = (part[:points].detach().clone() for part in pair)
    if not y.is_floating_point():
        y = torch.nn.functional.one_hot(y.flatten()).double()
        y = y - y.mean(0)
    return x, y.flatten(1) if y.ndim > 1 else y[:, None]


class ProbeObserver(Observer):
    """Measures the module on the first ``size`` points of the first batch.

    It does so at the start, every ``every_n_steps`` and at the end of each epoch.

    A subclass implements :meth:`look` and :meth:`figure`. The measurements are logged under ``<prefix>/``, drawn at the
    end, and continued after a resume. The module is in ``eval`` mode while it is measured, so that nothing in it
    changes.

    Attributes:
        prefix: Prefix of the logged names.
        kept: Names of attributes (tensors or mappings of them) that are saved in a checkpoint in addition to the
            points.

    Args:
        every_n_steps: Optimiser steps between two measurements.
        size: Largest number of points of the probe, P.
    """

    prefix: ClassVar[str]
    kept: ClassVar[tuple[str, ...]] = ()

    def __init__(self, every_n_steps: int, size: int) -> None:
        self.every_n_steps, self.size = every_n_steps, size
        self.points: list[dict[str, float]] = []
        self.probe: tuple[Tensor, Tensor] | None = None

    def look(self, module: pl.LightningModule, x: Tensor, y: Tensor) -> dict[str, float]:
        """Returns the measurements.

        Args:
            module: The module, in ``eval`` mode.
            x: Inputs (P, …), on the module's device.
            y: Targets (P, C), on the CPU.
        """
        raise NotImplementedError

    def figure(self) -> Figure:
        """Draws ``points``, the measurements with their ``step``."""
        raise NotImplementedError

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, it cannot be measured on a probe")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stores the probe and measures at the start."""
        if self.probe is None and len(pair_of(batch, self.name)[0]):  # a Poisson sample may be empty
            x, y = probe_of(batch, self.size, self.name)
            self.probe = x, y.cpu()
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures every ``every_n_steps`` optimiser steps."""
        if trainer.global_step % self.every_n_steps == 0:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures at the end of the epoch."""
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.probe is None:
            return
        if not self.points or self.points[-1]["step"] != trainer.global_step:
            with evaluating(pl_module):
                found = self.look(pl_module, self.probe[0].to(pl_module.device), self.probe[1])
            self.points.append({"step": trainer.global_step, **found})
        for name, value in self.points[-1].items():
            if name != "step":
                pl_module.log(f"{self.prefix}/{name}", value, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the figure."""
        if self.points:
            log_figure(trainer, self.technique, self.figure())

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements so far, the probe, and the attributes in ``kept``."""
        return {"points": self.points, "probe": self.probe, **{name: getattr(self, name) for name in self.kept}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.points, self.probe = list(state_dict["points"]), state_dict["probe"]
        for name in self.kept:
            setattr(self, name, state_dict[name])
