"""EMA: keeps a running average of the weights; validates with it and ends with it.

Lightning's own ``EMAWeightAveraging`` as a named technique: w̄ ← decay·w̄ + (1 − decay)·w after each optimiser step.
A checkpoint's ``state_dict`` holds the averaged weights (which ``test`` and ``predict`` load); the raw ones are saved
separately for resuming.

It works with every technique: it comes last, so that it averages the edited model. If the model is edited during
training, remaining parameters keep their average, and a reset of the optimiser (a warm start) restarts the average.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from framework.editing import Context, Plan, Technique, Transform, Writer
from framework.editing.registry import find_technique
from framework.editing.technique import callbacks_of
from framework.errors import UserError
from framework.settings import at_least, between


class EMA(Writer, EMAWeightAveraging):
    """Exponential moving average of the weights.

    Args:
        decay: Decay of the average at each update.
        update_every_n_steps: Optimiser steps between updates.
        update_starting_at_step: First step that is averaged; from the start by default.
        use_buffers: Whether buffers (BatchNorm statistics) are averaged too.

    Raises:
        UserError: a setting is not accepted.
    """

    technique: ClassVar[str] = "ema"
    phase = "average"

    def __init__(
        self,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        use_buffers: bool = True,
    ) -> None:
        between(0, 1, "[)", decay=decay)
        at_least(1, update_every_n_steps=update_every_n_steps)
        EMAWeightAveraging.__init__(
            self,
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
            use_buffers=use_buffers,
        )
        # Lightning's own multiplies both terms, so that rounding would change a frozen tensor's average
        self._kwargs = {**self._kwargs, "avg_fn": partial(_towards, decay=decay)}
        self.decay = decay
        self.use_buffers = use_buffers

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses checkpoints of weights only: Lightning writes them without calling callbacks, with the raw weights.

        Raises:
            UserError: a checkpoint callback has ``save_weights_only``.
        """
        for callback in getattr(context.trainer, "checkpoint_callbacks", ()):
            if getattr(callback, "save_weights_only", False):
                raise UserError(
                    f"techniques.{self.name} and {type(callback).__name__}.save_weights_only: true cannot be combined: "
                    "the averaged weights would not be in the checkpoint"
                )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts the average after all edits at the start."""
        Technique.setup(self, trainer, pl_module, stage)
        self._average_model = None  # from an earlier fit: an evaluation must not swap or load it
        if stage == "fit":
            self._latest_update_step = trainer.global_step
            self._average_model = self._average_of(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Loads raw and averaged weights; evaluations need only the averaged ones, which are loaded already."""
        if self._average_model is None:
            return
        own = {name: tensor.shape for name, tensor in self._average_model.module.state_dict().items()}
        if own != {name: tensor.shape for name, tensor in pl_module.state_dict().items()}:
            self._average_model = self._average_of(trainer, pl_module)  # the checkpoint has further edits
        super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves both; ``state_dict``, which an evaluation loads, has the raw weights until there is an average."""
        if self._average_model is None:
            return
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if not self._averaging:
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends with the average, also if nothing was left to train."""
        self._copy_average_to_current(pl_module)

    @property
    def _averaging(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        """Swaps the weights around a validation, except before the first update."""
        if self._averaging:
            super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        """Copies the average to the model at the end of training."""
        if self._averaging:
            super()._copy_average_to_current(pl_module)

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Adapts the average to an edit during training."""
        assert self._average_model is not None
        old = self._average_model
        if "structure" in find_technique(plan.technique).changes:
            self._average_model = self._average_of(trainer, pl_module)
            self._average_model.n_averaged.copy_(old.n_averaged)
            averages = dict(_tensors(old.module))
            for name, tensor in _tensors(self._average_model.module):
                if name in averages and averages[name].shape == tensor.shape:
                    tensor.data.copy_(averages[name].data)
        made_by = [t for t in callbacks_of(trainer) if isinstance(t, Transform) and t.name == plan.name]
        if any(technique.optimizer == "reset" for technique in made_by):
            self._average_model.n_averaged.zero_()  # the next update copies

    def _average_of(self, trainer: pl.Trainer, module: pl.LightningModule) -> AveragedModel:
        # on the model's later device, where it is not yet at the start; otherwise every update would copy it
        device = self._device or trainer.strategy.root_device
        average = AveragedModel(model=module, device=device, use_buffers=self._use_buffers, **self._kwargs)
        for parameter, original in zip(average.module.parameters(), module.parameters(), strict=True):
            parameter.requires_grad_(original.requires_grad)
        return average


def _towards(average: Tensor, current: Tensor, n_averaged: Tensor | int, decay: float) -> Tensor:
    if not (average.is_floating_point() or average.is_complex()):
        return current  # counts, indices and masks have no average
    towards = (current - average).mul_(1 - decay).add_(average)
    return torch.where(average == current, current, towards)  # infinities, for example in masks, would become nan


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
