"""Stops a run whose loss is not finite, and keeps only checkpoints from before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.errors import RunFailed

EVERY = 50
"""Largest number of training steps between two checks of losses that are on a device."""
SKIPPED = 30
"""Steps in a row that a gradient scaler may skip: after 16 its initial scale has been reduced to 1."""
LOSS, VALIDATION_LOSS = "train/loss", "val/loss"


class StopAtNaN(Callback):
    """Ends a training whose loss is NaN or infinite, with :class:`~framework.errors.RunFailed`.

    No checkpoint, neither ``last.ckpt`` nor a best one, is written after a training step whose loss was not finite on
    any rank, or while a trained parameter is not finite; both are checked before each write. With one CPU process the
    run stops at that step. On other devices the losses stay on the device, so that no step waits for it, and are
    checked every ``log_every_n_steps``, at most 50, steps; the message still names the step. After a validation,
    ``val/loss`` must be finite and ``monitor`` must not be NaN.

    The loss is what ``training_step`` returns, or the logged ``train/loss`` if it returns none (manual optimisation).
    Under ``16-mixed`` the gradient scaler skips the steps whose gradients overflow, so only 30 losses in a row that are
    not finite stop the run. A module that expects divergence is not checked (:attr:`framework.Module.may_diverge`).

    Args:
        monitor: The metric that decides which checkpoint is the best.
    """

    def __init__(self, monitor: str | None = None) -> None:
        self.monitor = monitor
        self._losses: list[Tensor] = []
        self._steps: list[int] = []
        self._skipped = 0
        self._since = 0  # steps since the last check: the same on every rank

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resets the state."""
        self._losses, self._steps, self._skipped, self._since = [], [], 0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stores or checks the step's loss."""
        if getattr(pl_module, "may_diverge", False):
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            loss = trainer.callback_metrics.get(LOSS)
        self._since += 1
        if isinstance(loss, Tensor):
            at_once = trainer.world_size == 1 and not stands_on_device(loss)
            if at_once and loss.numel() == 1 and math.isfinite(loss.item()):  # some 0.5 µs
                self._skipped = 0
                return
            self._losses.append(loss.detach())
            self._steps.append(max(0, trainer.global_step - 1))
            if at_once:
                self._look(trainer)
                return
        if self._since >= min(EVERY, trainer.log_every_n_steps or EVERY):  # type: ignore[attr-defined]
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        """Raises if a step since the last check had a loss that is not finite, on any rank."""
        losses, steps, self._losses, self._steps, self._since = self._losses, self._steps, [], [], 0
        found: str | None = None
        finite = torch.stack([loss.isfinite().all() for loss in losses]).tolist() if losses else []
        allowed = SKIPPED if getattr(trainer.precision_plugin, "scaler", None) is not None else 0
        for loss, step, sound in zip(losses, steps, finite, strict=True):
            self._skipped = 0 if sound else self._skipped + 1
            if self._skipped > allowed and found is None:
                found = f"{LOSS} is {_number(loss)} at step {step} (epoch {trainer.current_epoch})"
        self._stop(trainer, found)

    @staticmethod
    def _stop(trainer: Trainer, found: str | None) -> None:
        """Raises on all ranks if one rank found something; called on every rank."""
        if trainer.world_size > 1:
            flag = torch.tensor(int(found is not None), device=trainer.strategy.root_device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            if flag.item() and found is None:
                found = f"a loss or a weight of another rank is not finite at step {trainer.global_step - 1}"
        if found is not None:
            raise RunFailed(
                f"{found}: training has diverged and stops. A lower model.optimizer.lr or a trainer.gradient_clip_val "
                "may help; --run.on_nan=ignore continues anyway"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the validation loss, and the metric that chooses the best checkpoint."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or getattr(pl_module, "may_diverge", False):
            return
        found = None
        for name in dict.fromkeys((VALIDATION_LOSS, self.monitor)):
            value = trainer.callback_metrics.get(name) if name else None
            if value is not None and not (value.isfinite() if name == VALIDATION_LOSS else ~value.isnan()).all():
                found = found or f"{name} is {_number(value)} after step {max(0, trainer.global_step - 1)}"
        self._stop(trainer, found)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuses to save a model that has diverged."""
        if trainer.state.fn != "fit" or getattr(pl_module, "may_diverge", False):
            return
        self._look(trainer)
        names = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        sound = [p.detach().isfinite().all() for p in pl_module.parameters() if p.requires_grad]
        bad = [n for n, ok in zip(names, torch.stack(sound).tolist() if sound else [], strict=True) if not ok]
        step = max(0, trainer.global_step - 1)
        self._stop(trainer, f"the parameter {bad[0]} is not finite after step {step}" if bad else None)


def stands_on_device(loss: Tensor) -> bool:
    """Returns whether this process would have to wait for a device to read the value."""
    return loss.device.type != "cpu"


def _number(value: Tensor) -> str:
    """Returns ``nan``, ``inf`` or ``-inf``."""
    values = value.detach().flatten()
    return f"{float(values[~values.isfinite()][0]):g}"
