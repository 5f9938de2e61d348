"""Grokfast: amplifies the slow part of the gradients by adding an average of the earlier ones before each step.

Paper: Grokfast: Accelerated Grokking by Amplifying Slow Gradients (Lee, Kang, Kim & Lee 2024, arXiv 2405.20233), as a
baseline of GrokAlign (Walker et al. 2025, arXiv 2506.12284).

Before each optimiser step, for the gradient g of each trained parameter,

    h ← α h + (1 − α) g,  g ← g + λ h,  with h the first gradient at the start (GrokAlign's authors: α .8, λ .1)

Grokfast's own defaults are ``alpha: 0.98, lamb: 2.0``, with a larger weight decay than without it.

The filter sees the gradient that the optimiser would: accumulated over batches, averaged over ranks and, in mixed
precision, after unscaling. It is filtered before clipping, so ``gradient_clip_val`` bounds the sum, and the average has
unclipped gradients. In ``16-mixed`` a step whose gradients overflow is left out, as the optimiser leaves it out. A
parameter without a gradient in a step keeps its average.

The average is saved in the checkpoint, so a resume is exact. After an edit in mid-training the parameters that remain
keep theirs; others start with their next gradient. With LoRA only adapters have one.

Cost: memory of the trained parameters once more, and three passes over the gradients; see ``benchmarks/grok_align.py``.
Limits: one device or ``ddp``; automatic optimisation; no sparse gradients.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Context, Plan, Writer
from framework.errors import UserError
from framework.settings import at_least, between


@torch.no_grad()
def filter_gradients(
    parameters: nn.Module | MutableMapping[str, nn.Parameter],
    average: MutableMapping[str, Tensor],
    alpha: float = 0.8,
    lamb: float = 0.1,
) -> None:
    """Filters gradients in place; must be called between the backward pass and the optimiser's step.

    In a loop of one's own::

        average = {}
        ...
        loss.backward()
        filter_gradients(net, average)
        optimizer.step()

    Args:
        parameters: By name, or a module for its trainable ones; those without a gradient are left out.
        average: h by name; a missing one starts with the gradient. Changed in place.
        alpha: α, decay of the average, from 0 to below 1.
        lamb: λ, factor of the average in the gradient.

    Raises:
        UserError: a setting is not accepted, or a gradient is sparse.
    """
    between(0, 1, "[)", alpha=alpha)
    at_least(0, lamb=lamb)
    named = parameters.named_parameters() if isinstance(parameters, nn.Module) else parameters.items()
    found = {name: p.grad for name, p in named if p.requires_grad and p.grad is not None}
    if not found:
        return
    for name, gradient in found.items():
        if gradient.layout != torch.strided:
            raise UserError(f"grokfast: the gradient of {name} is sparse, which cannot be averaged")
        if name not in average:
            average[name] = gradient.clone()
    gradients, slow = list(found.values()), [average[name] for name in found]
    torch._foreach_mul_(slow, alpha)
    torch._foreach_add_(slow, gradients, alpha=1 - alpha)
    torch._foreach_add_(gradients, slow, alpha=lamb)


class Grokfast(Writer):
    """Adds an exponential average of the gradients to them before each optimiser step.

    Args:
        alpha: α, decay of the average.
        lamb: λ, factor of the average in the gradient.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module uses manual optimisation, or the strategy
            shards the weights (before training); a gradient is sparse, or a fused optimiser unscales gradients itself
            (in the first step).
    """

    technique = "grokfast"
    phase = "update"

    def __init__(self, alpha: float = 0.8, lamb: float = 0.1) -> None:
        between(0, 1, "[)", alpha=alpha)
        at_least(0, lamb=lamb)
        self.alpha, self.lamb = alpha, lamb
        self._average: dict[str, Tensor] = {}
        self._chosen: dict[str, nn.Parameter] = {}

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses modules that step themselves.

        Raises:
            UserError: the module uses manual optimisation.
        """
        if not getattr(model, "automatic_optimization", True):
            raise UserError(
                f"techniques.{self.name} and manual optimisation cannot be combined: {type(model).__name__} may take "
                "steps that no callback sees (automatic_optimization is False)"
            )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts without an average; a checkpoint's comes after it."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._average, self._chosen = {}, {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the trained parameters, and moves a checkpoint's averages to them."""
        self._chosen = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self._average = {
            name: value.to(self._chosen[name])
            for name, value in self._average.items()
            if name in self._chosen and value.shape == self._chosen[name].shape
        }

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Keeps the averages of the parameters that remain, whatever they are called now."""
        before = {id(p): self._average[name] for name, p in self._chosen.items() if name in self._average}
        self._chosen = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        kept = {name: before.get(id(p)) for name, p in self._chosen.items()}
        self._average = {
            name: value for name, value in kept.items() if value is not None and value.shape == self._chosen[name].shape
        }

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Filters the gradients of the optimiser's parameters."""
        chosen = self._chosen
        if len(trainer.optimizers) > 1:
            own = {id(p) for group in optimizer.param_groups for p in group["params"]}
            chosen = {name: p for name, p in chosen.items() if id(p) in own}
        if getattr(trainer.precision_plugin, "scaler", None) is not None and self._overflow(optimizer, chosen):
            return
        filter_gradients(chosen, self._average, self.alpha, self.lamb)

    def _overflow(self, optimizer: torch.optim.Optimizer, chosen: dict[str, nn.Parameter]) -> bool:
        """Whether the scaler will leave out this step.

        Raises:
            UserError: the gradients are still scaled.
        """
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            raise UserError(
                f"techniques.{self.name} and a fused optimiser in 16-mixed cannot be combined: "
                f"{type(optimizer).__name__} unscales the gradients itself, after they are filtered; set fused to false"
            )
        return not all(bool(p.grad.isfinite().all()) for p in chosen.values() if p.grad is not None)

    def state_dict(self) -> dict[str, Any]:
        """Returns the averages by parameter name."""
        return {"average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self._average = dict(state_dict["average"])
