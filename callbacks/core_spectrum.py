"""Core spectrum: the singular values of the retrieval cores of memory layers during training.

Retrieval by the best rows and columns (TDQKR, UltraMem and UltraMemV2, arXiv 2508.18756) is exact for a core of rank 1
and good as long as the first singular value λ₁ is much larger than the second, λ₂: below λ₂/λ₁ = 0.15 nothing is lost
compared to the best possible, at 0.5 about 3 %, at 1 about 22 %. UltraMemV2's authors report λ₁ ≥ 4 λ₂ without a
penalty.

Logged every ``every_n_steps`` and at the end of an epoch, for each layer: ``core/layer<i>/lambda1``, ``lambda2`` and
``ratio`` = λ₁/λ₂. At the end of training λ₁ and λ₂ are drawn against the step.

It works with any module with the method ``core_spectrum`` (:class:`framework.protocols.HasCoreSpectrum`) and does not
change the model. Cost: singular values of a few r×r matrices each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.protocols import HasCoreSpectrum
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectrum_figure(points: Sequence[tuple[int, list[list[float]]]]) -> Figure:
    """Draws λ₁ and λ₂ of each layer, and their ratio.

    Args:
        points: (step, singular values of each layer), in order.
    """
    figure = new_figure(1, 2)
    values, ratio = figure.axes
    steps = [step for step, _ in points]
    for layer in range(len(points[0][1])):
        first, second = ([spectrum[layer][k] for _, spectrum in points] for k in (0, 1))
        values.plot(steps, first, color=f"C{layer}", label=f"layer {layer}")
        values.plot(steps, second, color=f"C{layer}", linestyle="--")
        ratio.plot(steps, [a / max(b, 1e-12) for a, b in zip(first, second, strict=True)], color=f"C{layer}")
    highest = max(spectrum[0] for _, layers in points for spectrum in layers)
    values.set(xlabel="step", title="singular values (dashed: second)", ylim=(0, 1.25 * highest))
    ratio.axhline(4, color="0.6", linewidth=0.8, linestyle=":")
    ratio.set(xlabel="step", title="λ₁ / λ₂ (dotted: 4)", yscale="log")
    values.legend(frameon=False, fontsize=7, ncols=4, loc="upper center")
    return figure


class CoreSpectrum(Observer):
    """Logs and draws the singular values of the cores.

    Args:
        every_n_steps: Optimiser steps between two measurements.

    Raises:
        UserError: the setting is not accepted; at the start, the module has no cores of rank 2 or more.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self.points: list[tuple[int, list[list[float]]]] = []

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without cores.

        Raises:
            UserError: it has none, or none of rank 2 or more.
        """
        if not isinstance(model, HasCoreSpectrum) or not model.core_spectrum()[:, 1:].numel():
            raise UserError(f"core_spectrum: {type(model).__name__} has no cores of rank 2 or more")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures every ``every_n_steps`` optimiser steps."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and (not self.points or self.points[-1][0] != step):
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures at the end of the epoch."""
        self._look(trainer, pl_module)

    @torch.no_grad()
    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, HasCoreSpectrum)
        spectrum = pl_module.core_spectrum().tolist()
        if not self.points or self.points[-1][0] != trainer.global_step:
            self.points.append((trainer.global_step, spectrum))
        for index, (first, second, *_) in enumerate(spectrum):
            found = {"lambda1": first, "lambda2": second, "ratio": first / max(second, 1e-12)}
            for name, value in found.items():
                pl_module.log(f"core/layer{index}/{name}", value, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the figure."""
        if self.points:
            log_figure(trainer, "core_spectrum", spectrum_figure(self.points))

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements so far."""
        return {"points": [[step, spectrum] for step, spectrum in self.points]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.points = [(step, spectrum) for step, spectrum in state_dict["points"]]
