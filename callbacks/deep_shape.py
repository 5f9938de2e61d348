"""DeepShape: remaps the histogram of trained weights to a narrower, more peaked one, some epochs before the end.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486, versions 1 to 3).

The weights as one sample are rounded to levels of 2⁻¹³ and fitted by a generalised Gaussian of shape ν and scale α.
Then they are moved, keeping their order, so that their histogram has shape 0.8 ν and scale 0.6 α: a shorter code for
about the same network. A few more epochs restore the accuracy (see :mod:`framework.functional.compression.histogram`
for the steps, and for a cutoff beyond which weights are not changed).

Chosen weights: the trainable ones, tied ones once, including norms and biases as in the authors' program. So with LoRA
only adapters, and nothing that KappaTune froze. ``python -m framework export --deep-shape`` does the same to all
matrices of a checkpoint, without training afterwards.

Expected: at the paper's defaults on 1e6 Laplace-distributed weights the fitted shape decreases to 0.8 of its value,
within 0.05. For the loss of accuracy before it is restored: ``python -m framework reproduce gg_prior``.

Cost: sorts the weights once, about 2 s for 1e7. Limits: one device or ``ddp``; a resume after it continues with the
remapped weights, as after any edit of values.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from framework.editing import Context, OptimizerState, Plan, Transform, choose, nothing_matches, unique_parameters
from framework.errors import UserError
from framework.functional.compression.histogram import Remapped, check_settings, deep_shape_
from framework.functional.compression.rate import STEP
from framework.settings import at_least, one_of


class DeepShape(Transform):
    """Remaps the histogram of the trainable weights before an epoch.

    Args:
        epoch: Epoch before which it is done, from 0; training from this epoch on restores the accuracy.
        shape_scale: Ratio of the shape after to that before.
        std_scale: Ratio of the scale after to that before.
        adj_minnum: Largest number of weights on the last level that is remapped; by default 1,000, or a millionth of
            all weights if that is less.
        step: Distance between two levels.
        optimizer: ``keep`` or ``reset`` the optimiser's state.
        include: Patterns of parameter names (``*`` and ``?`` as in a shell); all for ``None``.
        exclude: Patterns of parameter names to leave out.

    Raises:
        UserError: a setting is not accepted (in the constructor); nothing is trained, or a pattern matches nothing
            (when it is applied).
    """

    technique = "deep_shape"
    changes = frozenset({"values"})
    moments = frozenset({"epoch"})
    phase = "remap"

    def __init__(
        self,
        epoch: int,
        shape_scale: float = 0.8,
        std_scale: float = 0.6,
        adj_minnum: int | None = None,
        step: float = STEP,
        optimizer: OptimizerState = "keep",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
    ) -> None:
        check_settings(shape_scale, std_scale, adj_minnum, step)
        at_least(0, epoch=epoch)
        one_of(get_args(OptimizerState), optimizer=optimizer)
        self.epoch, self.shape_scale, self.std_scale = epoch, shape_scale, std_scale
        self.adj_minnum, self.step, self.optimizer = adj_minnum, step, optimizer
        self.include, self.exclude = include, exclude
        self._done: Remapped | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses an epoch that is never reached.

        Raises:
            UserError: the training ends before.
        """
        last = getattr(context.trainer, "max_epochs", None)
        if last is not None and 0 <= last <= self.epoch and not getattr(context.trainer, "fast_dev_run", False):
            raise UserError(f"{self.name}.epoch: {self.epoch} is not reached, trainer.max_epochs is {last}")

    def due(self, context: Context) -> bool:
        """Returns true once, before its epoch."""
        return context.at == "epoch" and context.epoch == self.epoch and all(p.name != self.name for p in context.plans)

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the names of the parameters, and the settings.

        Raises:
            UserError: nothing trainable is left, or a pattern matches nothing; the message lists the nearest names.
        """
        known = [
            name
            for name, parameter in unique_parameters(model).items()
            if parameter.requires_grad and parameter.is_floating_point() and parameter.numel()
        ]
        names = choose(known, self.include, self.exclude or (), "deep_shape.include")
        if not names:
            raise nothing_matches(", ".join(self.include or ("*",)), known, "deep_shape: trainable")
        return {
            "tensors": names,
            "epoch": context.epoch,
            "shape_scale": self.shape_scale,
            "std_scale": self.std_scale,
            "adj_minnum": self.adj_minnum,
            "step": self.step,
        }

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Remaps the weights."""
        keys = ("shape_scale", "std_scale", "adj_minnum", "step")
        tensors = [model.get_parameter(name) for name in decision["tensors"]]
        self._done = deep_shape_(tensors, **{key: decision[key] for key in keys})

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints what was done in one line."""
        if self._done is not None:
            print(f"{self.name}: epoch {plan.epoch}: {self._done.text().removeprefix('deep_shape: ')}", file=sys.stderr)
            self._done = None


__all__ = ["DeepShape", "Remapped", "deep_shape_"]
