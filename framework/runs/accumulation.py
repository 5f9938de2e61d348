"""Averages the gradient of an accumulation window over the batches that it really contains."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class ShortWindows(Callback):
    """Makes the gradient of an accumulation window the mean over its batches, also if it is shorter than configured.

    Lightning divides each loss by ``accumulate_grad_batches``, so the last window of an epoch that ends within one has
    a gradient that is too small. This callback multiplies it by ``accumulate_grad_batches`` divided by the number of
    backward passes since the gradients were zeroed, before it is clipped and before other callbacks and the module see
    it in ``on_before_optimizer_step``. As in Lightning each batch has the same weight, whatever its size; a full window
    is not changed. Backward passes are counted, not computed from the loader's length, so that the result is also right
    for loaders without a length and for training steps that return ``None``.
    """

    def __init__(self) -> None:
        self._backwards = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the count: no gradients are kept over a resume."""
        self._backwards = 0

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Resets the count: a new window starts."""
        self._backwards = 0

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts one batch."""
        self._backwards += 1

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Scales the gradients if the window is not full."""
        asked = trainer.accumulate_grad_batches
        if not 0 < self._backwards < asked or trainer.strategy.handles_gradient_accumulation:
            return
        if not pl_module.automatic_optimization:  # Lightning then does not divide the loss
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(asked / self._backwards)
