"""Kernel plot: draws the convolution kernels of a long-convolution model, before and after training.

For each layer one figure with three panels, with the values at the start of training pale and the current ones solid:

- kernels K(t) of a few channels (S4D, Gu et al. 2022, arXiv 2206.11893, eq. 7);
- basis functions Re(B_n e^{A_n t}) of the channel with the median step size;
- the spectrum A_n in the complex plane, with initial values as crosses.

Works on any module with the method ``kernel_data`` (:class:`framework.protocols.HasKernels`). It does not change the
model. Cost: one evaluation of every kernel at the start of training and one per figure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch import nn

from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.protocols import HasKernels, KernelData
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def kernel_figure(before: KernelData | None, after: KernelData, channels: int = 3, modes: int = 4) -> Figure:
    """Draws one layer.

    Args:
        before: Data at the start of training, or ``None`` to show only the current ones.
        after: Current data.
        channels: Number of kernels shown, evenly spaced over the range of step sizes.
        modes: Number of basis functions shown, the first ones.
    """
    figure = new_figure(1, 3)
    kernel_axes, basis_axes, plane = figure.axes
    order = after.steps.argsort()
    rows = order[[round(i * (len(order) - 1) / max(1, channels - 1)) for i in range(min(channels, len(order)))]]
    moments = [(after, 1.0)] if before is None else [(before, 0.3), (after, 1.0)]
    for data, alpha in moments:
        last = data is after
        for colour, row in enumerate(rows.tolist()):
            label = f"Δ = {float(data.steps[row]):.2g}" if last else None
            kernel_axes.plot(data.kernel[row], color=f"C{colour}", alpha=alpha, linewidth=1, label=label)
        for colour, curve in enumerate(data.basis[:modes]):
            label = f"n = {colour}" if last else None
            basis_axes.plot(curve, color=f"C{colour}", alpha=alpha, linewidth=1, label=label)
        name = None if before is None else ("now" if last else "start")
        style: dict[str, Any] = {"color": "C0", "ms": 3} if last else {"color": "C1", "ms": 4, "zorder": 3}
        plane.plot(data.modes.real, data.modes.imag, "." if last else "x", label=name, **style)
    kernel_axes.set(title=f"{after.name}: kernels", xlabel="lag [samples]", ylabel="K")
    basis_axes.set(title="basis functions (median Δ)", xlabel="lag [samples]", ylabel="Re B exp(A t)")
    plane.set(title="spectrum", xlabel="Re A", ylabel="Im A")
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    return figure


class KernelPlot(Observer):
    """Draws kernels, basis functions and spectrum of each layer when training ends.

    Args:
        length: Number of samples shown.
        every_n_epochs: Number of epochs between two figures; 0 draws only at the end.
        channels: Number of kernels shown per layer.
        layers: Largest number of layers, the first ones.

    Raises:
        UserError: at the start of training, if the module has no kernels; or a setting is not accepted.
    """

    def __init__(self, length: int = 256, every_n_epochs: int = 0, channels: int = 3, layers: int = 4) -> None:
        at_least(1, channels=channels, layers=layers)
        at_least(2, length=length)
        at_least(0, every_n_epochs=every_n_epochs)
        self.length = length
        self.every_n_epochs = every_n_epochs
        self.channels = channels
        self.layers = layers
        self._before: list[KernelData] | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module without kernels.

        Raises:
            UserError: it has no ``kernel_data``.
        """
        if not isinstance(model, HasKernels):
            raise UserError(
                f"kernel_plot: {type(model).__name__} has no kernels to plot (it lacks the method kernel_data)"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stores the kernels at the start, or at the resume."""
        if trainer.is_global_zero:
            self._before = _kernels(pl_module, self.length)[: self.layers]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws every ``every_n_epochs``."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._draw(trainer, pl_module, f"_epoch{trainer.current_epoch + 1}")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the kernels at the end."""
        self._draw(trainer, pl_module, "")

    def _draw(self, trainer: pl.Trainer, pl_module: pl.LightningModule, suffix: str) -> None:
        if not trainer.is_global_zero or self._before is None:
            return
        for index, (before, after) in enumerate(zip(self._before, _kernels(pl_module, self.length), strict=False)):
            log_figure(trainer, f"kernels_layer{index}{suffix}", kernel_figure(before, after, self.channels))


def _kernels(module: pl.LightningModule, length: int) -> list[KernelData]:
    assert isinstance(module, HasKernels)
    return module.kernel_data(length)
