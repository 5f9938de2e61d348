"""The mean of a short window: what is divided by is the number of batches that were really accumulated."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class ShortWindows(Callback):
    """Makes the gradient of a window of accumulated batches their mean, where they are fewer than asked for.

    Lightning divides each loss by ``accumulate_grad_batches``, so the last window of an epoch that ends within one has
    a gradient that is too small. Here it is multiplied by ``accumulate_grad_batches`` over the number of backward
    passes since the gradients were zero, before it is clipped and before other callbacks and the module see it in
    ``on_before_optimizer_step``. As in Lightning each batch weighs the same, whatever its size; where a window is full
    nothing is touched. The number is counted, not computed from a length, so that loaders without one, and training
    steps that return ``None``, are right too.
    """

    def __init__(self) -> None:
        self._backwards = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the count again: no gradients outlive a resume."""
        self._backwards = 0

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """A window begins."""
        self._backwards = 0

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One more batch."""
        self._backwards += 1

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Scales the gradients of a window that is not full."""
        asked = trainer.accumulate_grad_batches
        if not 0 < self._backwards < asked or trainer.strategy.handles_gradient_accumulation:
            return
        if not pl_module.automatic_optimization:  # which divides by nothing
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(asked / self._backwards)
