"""Memory probe: how far back the input can be read from each layer's state, before and during training.

The modes of a layer, frozen, are driven with low-passed noise; R² of a ridge regression from the state to the input d
samples ago measures what the state keeps (the purpose of the initialisations of S4D, Gu et al. 2022, arXiv 2206.11893).
It is logged as ``memory/<layer>/delay_<d>`` and drawn as R² against the delay, pale at the start and solid at the end.

Works on any module with the method ``memory_curves`` (:class:`framework.protocols.HasMemory`). It does not change the
model. Cost: about 0.1 s per layer for each probe on one CPU core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
from torch import nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.protocols import HasMemory
from framework.settings import at_least, at_most, not_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def memory_figure(delays: list[int], before: dict[str, list[float]], after: dict[str, list[float]]) -> Figure:
    """Draws R² against delay for each layer.

    Args:
        delays: Delays in samples.
        before: Maps a layer to R² at each delay, at the start.
        after: The current values.
    """
    figure = new_figure()
    axes = figure.axes[0]
    for index, name in enumerate(after):
        axes.plot(delays, before[name], "o--", color=f"C{index}", alpha=0.35, markersize=3)
        axes.plot(delays, after[name], "o-", color=f"C{index}", label=name, markersize=3)
    axes.set(xscale="log", xlabel="delay d [samples]", ylabel="R² of $u_{k-d}$", ylim=(-0.05, 1.05))
    axes.set(title="memory of the state (dashed: at the start)")
    axes.legend(frameon=False, fontsize=7)
    return figure


class MemoryProbe(Observer):
    """Logs and draws the linear memory of each layer.

    Args:
        delays: Delays in samples.
        every_n_epochs: Number of epochs between two measurements; 0 for the last epoch only.
        samples: Length of the noise in samples.

    Raises:
        UserError: a setting is not accepted; at the start, the module has no state to probe.
    """

    def __init__(
        self, delays: tuple[int, ...] = (1, 4, 16, 64, 256), every_n_epochs: int = 0, samples: int = 8000
    ) -> None:
        self.delays = [int(delay) for delay in delays]
        not_empty(delays=self.delays)
        at_least(0, delays=self.delays, every_n_epochs=every_n_epochs)
        at_most({"samples / 4": samples // 4}, delays=self.delays)
        self.every_n_epochs = every_n_epochs
        self.samples = samples
        self._before: dict[str, list[float]] | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without a state.

        Raises:
            UserError: it has no ``memory_curves``.
        """
        if not isinstance(model, HasMemory):
            raise UserError(
                f"memory_probe: {type(model).__name__} has no state to probe (it lacks the method memory_curves)"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Probes at the start, or at the resume."""
        self._before = self._probe(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs R² for each layer and delay."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 if self.every_n_epochs else epoch == trainer.max_epochs
        if due:
            for name, curve in self._probe(pl_module).items():
                for delay, value in zip(self.delays, curve, strict=True):
                    pl_module.log(f"memory/{name}/delay_{delay}", value, rank_zero_only=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the start against the end."""
        if trainer.is_global_zero and self._before is not None:
            log_figure(trainer, "memory", memory_figure(self.delays, self._before, self._probe(pl_module)))

    def _probe(self, module: pl.LightningModule) -> dict[str, list[float]]:
        assert isinstance(module, HasMemory)
        return module.memory_curves(self.delays, self.samples)
