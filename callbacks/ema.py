"""EMA: keeps a running average of the weights; validates with it and ends with it.

Lightning's own ``EMAWeightAveraging`` as a named technique: w̄ ← decay·w̄ + (1 − decay)·w after each optimiser step.
A checkpoint's ``state_dict`` holds the averaged weights (what ``test`` and ``predict`` load), and the raw ones beside
them for resuming.

Composes with every technique: it comes last, so that it averages the edited model. When the model is edited in
mid-training, what lives on keeps its average, and a reset of the optimiser (a warm start) restarts the average.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from framework.editing import Plan, Technique, Transform
from framework.editing.registry import find_technique
from framework.errors import UserError


class EMA(Technique, EMAWeightAveraging):
    """Exponential moving average of the weights.

    Args:
        decay: Of the average at each update.
        update_every_n_steps: Optimiser steps between updates.
        update_starting_at_step: First step that is averaged; from the start by default.
        use_buffers: Whether buffers (BatchNorm statistics) are averaged too.

    Raises:
        UserError: a setting is not accepted.
    """

    technique: ClassVar[str] = "ema"
    after: ClassVar[tuple[str, ...]] = ("*",)

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        use_buffers: bool = True,
    ) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema.decay: {decay} is not accepted; from 0 to below 1")
        if update_every_n_steps < 1:
            raise UserError(f"ema.update_every_n_steps: {update_every_n_steps} is not accepted; it must be 1 or more")
        EMAWeightAveraging.__init__(
            self,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
            use_buffers=use_buffers,
        )
        # Lightning's own weighs both terms, and a frozen tensor's average would drift by rounding
        self._kwargs = {**self._kwargs, "avg_fn": partial(_towards, decay=decay)}
        self.decay = decay
        self.use_buffers = use_buffers

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Averages the model as every edit at the start leaves it."""
        Technique.setup(self, trainer, pl_module, stage)
        EMAWeightAveraging.setup(self, trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Loads raw and averaged weights; evaluations need the averaged ones only, which are there already."""
        if self._average_model is None:
            return
        names = {name.removeprefix("module.") for name in self._average_model.state_dict() if name != "n_averaged"}
        if names != pl_module.state_dict().keys():  # the checkpoint brought edits that were not known at the start
            self._average_model = self._average_of(pl_module)
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Follows an edit in mid-training."""
        assert self._average_model is not None
        technique = find_technique(plan.technique)
        old = self._average_model
        if "structure" in technique.changes:
            self._average_model = self._average_of(pl_module)
            self._average_model.n_averaged.copy_(old.n_averaged)
            averages = dict(_tensors(old.module))
            for name, tensor in _tensors(self._average_model.module):
                if name in averages and averages[name].shape == tensor.shape:
                    tensor.data.copy_(averages[name].data)
        if issubclass(technique, Transform) and technique.optimizer == "reset":
            self._average_model.n_averaged.zero_()  # the next update copies

    def _average_of(self, module: pl.LightningModule) -> AveragedModel:
        average = AveragedModel(
            model=module, device=self._device or module.device, use_buffers=self._use_buffers, **self._kwargs
        )
        for parameter, original in zip(average.module.parameters(), module.parameters(), strict=True):
            parameter.requires_grad_(original.requires_grad)
        return average


def _towards(average: Tensor, current: Tensor, n_averaged: Tensor | int, decay: float) -> Tensor:
    return average + (current - average) * (1 - decay)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
