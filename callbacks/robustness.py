"""Robustness: accuracy under projected gradient descent attacks on a few validation samples, during training.

Paper: Towards Deep Learning Models Resistant to Adversarial Attacks (Madry et al. 2018, arXiv 1706.06083), the attack;
GrokAlign (Walker et al. 2025, arXiv 2506.12284), delayed robustness.

The attack maximises the cross-entropy (one output z counts as the logits 0 and z), x in units where black is 0 and
white is 1:

    δ ← Π_eps(δ + step · sign ∇ℓ)  (linf),  δ ← Π_eps(δ + step · ∇ℓ / ‖∇ℓ‖₂)  (l2),  x + δ within [0, 1]

Models see normalised inputs (x - mean)/std: mean and deviation of each channel are those of the datamodule (its
``mean`` and ``std``), unless they are set here. Sizes and bounds are always in [0, 1] units; inputs that are not within
them with this mean and deviation are refused. Models in half precision are attacked in steps of float32.

``points`` samples of the first validation batch are stored (of the first process). Every ``every_n_epochs`` their
accuracy is logged as ``robustness/accuracy_<eps>``, at the end of the epoch; with ``eps`` 0 it is the clean accuracy
exactly, because nothing is attacked. The module is in ``eval`` mode during an attack, and in its own modes afterwards,
also after an error; its gradients and the global generators are not touched.

Cost: ``steps`` backward passes of the points for each ``eps``. Limits: classifiers whose ``forward`` takes the inputs;
one attack without restarts: an upper bound of the robust accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.data.seeding import mix
from framework.editing import Context
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.functional.attacks import Norm, accuracy, pgd
from framework.observing.networks import pixel_units
from framework.observing.samples import SampleObserver
from framework.settings import above, at_least, not_empty, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def robustness_figure(curve: Sequence[dict[str, float]]) -> Figure:
    """Draws accuracies over log steps, a line for each size.

    Args:
        curve: ``step``, and the accuracy by the name of each size.
    """
    figure = new_figure(size=(5.6, 3.6))
    axes = figure.axes[0]
    for name in (name for name in curve[0] if name != "step"):
        axes.plot([e["step"] for e in curve], [e[name] for e in curve], "o-", markersize=3, label=f"eps {name}")
    axes.set(xlabel="optimiser step", ylabel="accuracy", xscale="log", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize=8)
    return figure


class Robustness(SampleObserver):
    """Logs and draws the accuracy under attacks on a few validation samples.

    Args:
        eps: Sizes of the perturbation, in [0, 1] units.
        norm: ``linf`` or ``l2``.
        steps: Gradient steps of an attack.
        points: Largest number of samples.
        every_n_epochs: Epochs from one measurement to the next.
        mean: Of each channel, that normalisation subtracted; by default the datamodule's ``mean``, or 0.
        std: By which it divided; by default the datamodule's ``std``, or 1.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no ``forward`` (before training); the
            validation batches are not inputs and classes, or cannot be attacked (at the first one).
    """

    technique = "robustness"

    def __init__(
        self,
        eps: list[float] | None = None,
        norm: Norm = "linf",
        steps: int = 10,
        points: int = 128,
        every_n_epochs: int = 1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        at_least(0, eps=eps)
        not_empty(eps=eps, mean=mean, std=std)
        above(0, std=std)
        one_of(get_args(Norm), norm=norm)
        at_least(1, steps=steps, points=points, every_n_epochs=every_n_epochs)
        self.eps, self.norm, self.steps, self.points = eps, norm, steps, points
        self.every_n_epochs, self.mean, self.std = every_n_epochs, mean, std
        self.curve: list[dict[str, float]] = []

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"techniques.{self.name}: {type(model).__name__} has no forward, it cannot be attacked")

    def try_out(self, trainer: pl.Trainer, module: pl.LightningModule, x: Tensor, y: Tensor) -> None:
        """Tries an attack of one step.

        Raises:
            UserError: the samples cannot be attacked.
        """
        self._attack(trainer, module, x, y, max(self.sizes), steps=1)

    @property
    def sizes(self) -> list[float]:
        """Sizes of the perturbation."""
        return [0.0, 4 / 255] if self.eps is None else self.eps

    def _attack(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        x: Tensor,
        y: Tensor,
        eps: float,
        steps: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        try:
            units = pixel_units(trainer, self.mean, self.std)
            return pgd(module, x, y, eps, self.norm, steps, None, *units, generator)
        except UserError as error:
            raise UserError(f"techniques.{self.name}: {error}") from None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures after the epochs that are due."""
        if not self.due(trainer):
            return
        x, y = self.samples(pl_module)
        found: dict[str, float] = {}
        for number, eps in enumerate(self.sizes):
            generator = torch.Generator().manual_seed(mix(number, trainer.current_epoch))
            attacked = self._attack(trainer, pl_module, x, y, eps, self.steps, generator)
            found[f"{eps:.4g}"] = accuracy(pl_module, attacked, y)
        for name, value in found.items():
            pl_module.log(f"robustness/accuracy_{name}", value, rank_zero_only=True)
        self.curve.append({"step": trainer.global_step, **found})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the accuracies."""
        if self.curve:
            log_figure(trainer, self.technique, robustness_figure(self.curve))
