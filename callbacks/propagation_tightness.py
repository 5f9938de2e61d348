"""Propagation tightness: how far interval bounds are from exact, on a few validation samples, during training.

Paper: Understanding Certified Training with Interval Bound Propagation (Mao, Mueller, Fischer, Vechev 2024,
arXiv 2306.10426).

The tightness at x is the ratio of two half-widths of the outputs' differences: that of the network's linear map at x
over that of its layers one by one (see :func:`framework.functional.interval.tightness`). 1 means that boxes lose
nothing to first order, 0.01 that they are a hundred times too wide. Networks trained on bounds become tight.

``points`` samples of the first validation batch are stored (of the first process). Every ``every_n_epochs``, at the end
of the epoch, these are logged, all in evaluation mode:

- ``propagation_tightness/local``: mean over samples and other classes; ``/dln``: without the ReLUs,
- ``/radius``: mean half-width of the outputs' boxes; ``/dead``, ``/active``, ``/unstable``: shares of the ReLUs that
  are off in the whole box, on in the whole box, or neither,
- ``/certified``: share that is right in the whole box, by bounds; ``/accuracy``: share that is right.

The figure draws them over the steps, and the tightness of each class. **A tightness of 1 alone is no success**: a
network that has collapsed to a constant has it too; look at the accuracy beside it.

It works on any classifier whose network interval bounds exist for: linear and convolutional layers, batch norm, ReLU,
pooling, sums; name it with ``net`` if ``forward`` does more. eps counts in units where pixels are from 0 to 1; inputs
that the datamodule normalises (its ``mean`` and ``std``) are scaled back, unless they are set here.

Cost: two backward passes of the points for each class but one. Limits: one eps; no dropout in the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Context
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.functional.evaluating import evaluating
from framework.functional.interval import IntervalNetwork, certified, pixel_box, relu_states, tightness
from framework.functional.pixels import in_pixels
from framework.observing.networks import bounded_network, pixel_units
from framework.observing.samples import SampleObserver
from framework.protocols.bounds import HasBoundedNetwork
from framework.settings import above, at_least, between, not_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("local", "dln", "accuracy", "certified")


def measure(network: IntervalNetwork, x: Tensor, y: Tensor, eps: float) -> tuple[dict[str, float], dict[int, float]]:
    """Returns the measurements of a batch (see the module's docstring), and the mean local tightness of each class.

    Args:
        network: The network.
        x: Inputs (B, …) in [0, 1].
        y: Classes (B,).
        eps: Largest change of a pixel, above 0.

    Raises:
        UserError: the inputs are outside [0, 1].
    """
    local = tightness(network, x, eps, y)
    box = pixel_box(x, eps)
    with evaluating(network.net), torch.no_grad():
        bounds, margins = network.propagate(box), network.propagate(box, y).margins
        clean = network.net(x)
    assert bounds.output is not None
    assert margins is not None
    found = {
        "local": local.mean,
        "dln": tightness(network, x, eps, y, linear=True).mean,
        "radius": float(bounds.output.radius.mean()),
        **relu_states(bounds.relus),
        "certified": float(certified(margins, y).float().mean()),
        "accuracy": float((clean.argmax(1) == y).float().mean()),
    }
    classes = {int(label): float(local.ratio[y == label].mean()) for label in y.unique()}
    return found, classes


def tightness_figure(curve: Sequence[dict[str, float]], classes: dict[int, float]) -> Figure:
    """Draws tightness and accuracies over the steps, and the last tightness of each class.

    Args:
        curve: ``step`` and the measurements.
        classes: Mean local tightness by class.
    """
    figure = new_figure(1, 2, size=(8.4, 3.4))
    left, right = figure.axes
    for name in SHOWN:
        style = "o-" if name in ("local", "dln") else "s--"
        left.plot([e["step"] for e in curve], [e[name] for e in curve], style, markersize=3, label=name)
    left.set(xlabel="optimiser step", ylabel="tightness; share of samples", ylim=(-0.02, 1.02))
    left.legend(frameon=False, fontsize=8)
    right.bar(list(classes), list(classes.values()), color="tab:blue")
    right.set(xlabel="class", ylabel="local tightness", ylim=(0, 1.02))
    if len(classes) <= 20:
        right.set_xticks(list(classes))
    return figure


class PropagationTightness(SampleObserver):
    """Logs and draws the tightness of interval bounds on a few validation samples.

    Args:
        eps: Largest change of a pixel, above 0 and at most 1; by default that of the module's evaluation.
        points: Largest number of samples.
        every_n_epochs: Epochs from one measurement to the next.
        net: Name of the network through which boxes are propagated; by default the module's own, or the module itself.
        mean: Of each channel, that normalisation subtracted; by default the datamodule's ``mean``, or 0.
        std: By which it divided; by default the datamodule's ``std``, or 1.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no eps and none is given, or its
            network has no interval bounds (before training); the validation batches are not inputs and classes, or not
            in [0, 1] in these units (at the first one).
    """

    technique = "propagation_tightness"

    def __init__(
        self,
        eps: float | None = None,
        points: int = 200,
        every_n_epochs: int = 1,
        net: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        between(0, 1, "(]", eps=eps)
        at_least(1, points=points, every_n_epochs=every_n_epochs)
        not_empty(mean=mean, std=std)
        above(0, std=std)
        self.eps, self.points, self.every_n_epochs = eps, points, every_n_epochs
        self.net, self.mean, self.std = net, mean, std
        self.curve: list[dict[str, float]] = []
        self.classes: dict[int, float] = {}

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without eps.

        Raises:
            UserError: it has none, and none is given.
        """
        if self.eps is None and not (isinstance(model, HasBoundedNetwork) and model.test_eps > 0):
            raise UserError(
                f"techniques.{self.name}.eps: {type(model).__name__} has no eps above 0 of its own; give one"
            )

    def _measure(
        self, trainer: pl.Trainer, module: pl.LightningModule, x: Tensor, y: Tensor
    ) -> tuple[dict[str, float], dict[int, float]]:
        eps = self.eps if self.eps is not None else float(module.test_eps)  # type: ignore[arg-type]
        try:
            net, pixels = in_pixels(bounded_network(module, self.net), x, *pixel_units(trainer, self.mean, self.std))
            return measure(IntervalNetwork(net), pixels, y, eps)
        except UserError as error:
            raise UserError(f"techniques.{self.name}: {error}") from None

    def try_out(self, trainer: pl.Trainer, module: pl.LightningModule, x: Tensor, y: Tensor) -> None:
        """Measures one sample.

        Raises:
            UserError: it cannot be measured.
        """
        self._measure(trainer, module, x[:1], y[:1])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures after the epochs that are due."""
        if not self.due(trainer):
            return
        found, self.classes = self._measure(trainer, pl_module, *self.samples(pl_module))
        for name, value in found.items():
            pl_module.log(f"propagation_tightness/{name}", value, rank_zero_only=True)
        self.curve.append({"step": trainer.global_step, **found})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the measurements."""
        if self.curve:
            log_figure(trainer, self.technique, tightness_figure(self.curve, self.classes))

    def state_dict(self) -> dict[str, Any]:
        """Returns the samples and the measurements."""
        return {**super().state_dict(), "classes": dict(self.classes)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        super().load_state_dict(state_dict)
        self.classes = dict(state_dict["classes"])
