"""Weight histogram: the distribution of weights before and after training, with the fitted generalised Gaussian.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486), the estimator of the shape ν.

For each chosen tensor it draws one panel with a logarithmic axis: the histogram at the start (pale), the current one
(solid), and the fitted density p(w) ∝ exp(−(|w|/α)^ν). Logged after each epoch:

- ``weights/shape``: ν of all parameters as one sample, including norms and biases (the paper's global estimate; a
  mixture of tensors of different scale appears heavy-tailed, so it is below those of single tensors);
- ``weights/shape/<tensor>``: ν of each weight tensor; ``weights/std/<tensor>``: its √(Σw²/n).

The initial values are logged at step 0. ν has a resolution of 0.01 and is between 0.1 and 3.0; a normal distribution
has 2, a Laplace distribution 1, and most newly initialised layers of torch are uniform, which saturates at 3.0.

It works with any module and does not change it. Cost: two passes over the weights for each logged epoch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Observer, matrices, unique_parameters
from framework.figures import log_figure, new_figure
from framework.functional import generalized_gaussian as gg
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def fitted_shapes(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, gg.ShapeFit]:
    """Returns the fit of each tensor by name, and that of all parameters of the model as one sample under ``""``.

    Args:
        model: The model; all of its parameters are used for the global estimate.
        tensors: Tensors by name.
    """
    sums = {name: gg.moments(p) for name, p in unique_parameters(model).items() if p.is_floating_point()}
    fits = {"": gg.fit(sum(sums.values(), gg.Moments()))}
    return {**fits, **{name: gg.fit(sums.get(name) or gg.moments(tensor)) for name, tensor in tensors.items()}}


def histogram(w: Tensor, bins: int, limit: float) -> Tensor:
    """Estimates the density of weights.

    Args:
        w: Weights of any shape.
        bins: Number of bins, of equal width over ``(-limit, limit)``.
        limit: Values beyond it are not counted.

    Returns:
        ``(bins,)``, float32, on the CPU.
    """
    counts = torch.histc(w.detach().float(), bins, -limit, limit)
    return (counts / (w.numel() * 2 * limit / bins)).cpu()


def weight_figure(
    before: dict[str, Tensor] | None, now: dict[str, Tensor], fits: dict[str, gg.ShapeFit], bins: int = 101
) -> Figure:
    """Draws a panel for each tensor.

    Args:
        before: The tensors at the start, or ``None``.
        now: The current tensors, by name.
        fits: The fit of each, by name; the global one under ``""`` if it is known.
        bins: Number of bins of a histogram.
    """
    columns = min(3, len(now))
    figure = new_figure(math.ceil(len(now) / columns), columns, (3.6 * columns, 2.6 * math.ceil(len(now) / columns)))
    for axes in figure.axes[len(now) :]:
        axes.set_visible(False)
    for axes, (name, w) in zip(figure.axes, now.items(), strict=False):
        _panel(axes, name, None if before is None else before.get(name), w, fits[name], bins)
    title = f"all parameters as one sample: ν = {fits[''].shape:.2f}" if "" in fits else ""
    figure.suptitle(title, fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, name: str, before: Tensor | None, w: Tensor, fit: gg.ShapeFit, bins: int) -> None:
    present = [part for part in (before, w) if part is not None and part.numel()]
    limit = max(float(part.abs().max()) for part in present) or 1.0
    bins = max(11, min(bins, w.numel() // 8 | 1))
    edges = torch.linspace(-limit, limit, bins + 1)
    if before is not None:
        axes.stairs(histogram(before, bins, limit).numpy(), edges.numpy(), color="C7", alpha=0.7, label="start")
    heights = histogram(w, bins, limit)
    axes.stairs(heights.numpy(), edges.numpy(), color="C0", fill=True, alpha=0.45, label="now")
    lowest = 0.3 / (w.numel() * 2 * limit / bins)  # below the density of one weight in a bin
    top = float(heights.max())
    if fit.alpha > 0:
        x = torch.linspace(-limit, limit, 401, dtype=torch.float64)
        curve = gg.density(x, fit.alpha, fit.shape)
        axes.plot(x.numpy(), curve.clamp(min=lowest / 10).numpy(), color="C3", lw=1.2, label="fitted density")
        top = max(top, min(float(curve.max()), 10 * top))
    axes.set(yscale="log", ylim=(lowest, 3 * top))
    axes.tick_params(labelsize=7)
    shown = name if len(name) <= 38 else f"…{name[-37:]}"
    bound = " (end of the table)" if fit.saturated else ""
    found = "all 0" if math.isnan(fit.shape) else f"ν = {fit.shape:.2f}{bound}, std {fit.std:.3g}"
    axes.set_title(f"{shown}\n{found}", fontsize=8)


class WeightHistogram(Observer):
    """Logs the fitted shape of weights and draws their histograms at the start and the end of training.

    Args:
        include: Patterns of parameter names (``*`` and ``?`` as in a shell); ``None`` for all with at least two
            dimensions.
        exclude: Patterns of parameter names to leave out.
        panels: Largest number of drawn tensors, the first ones; all chosen ones are logged.
        every_n_epochs: Number of epochs between two logs; 0 for never.
        bins: Number of bins of a histogram.

    Raises:
        UserError: a setting is not accepted (in the constructor); nothing is found, or a pattern matches nothing (at
            the start).
    """

    technique = "weight_histogram"

    def __init__(
        self,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        panels: int = 9,
        every_n_epochs: int = 1,
        bins: int = 101,
    ) -> None:
        at_least(1, panels=panels)
        at_least(0, every_n_epochs=every_n_epochs)
        at_least(11, bins=bins)
        self.include, self.exclude = include, exclude
        self.panels, self.every_n_epochs, self.bins = panels, every_n_epochs, bins
        self._before: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses patterns that match nothing."""
        matrices(pl_module, self.include, self.exclude, "weight_histogram.include")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stores the weights at the start, or at the resume; draws and logs them at the start."""
        if not trainer.is_global_zero:
            return
        tensors = matrices(pl_module, self.include, self.exclude, "weight_histogram.include")
        self._before = {name: tensors[name].float().cpu().clone() for name in list(tensors)[: self.panels]}
        if trainer.global_step:
            return
        fits = fitted_shapes(pl_module, tensors)
        for logger in trainer.loggers:
            logger.log_metrics(_metrics(fits), step=0)
        log_figure(trainer, "weights_start", weight_figure(None, self._before, fits, self.bins))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the fitted shapes."""
        if self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            fits = fitted_shapes(pl_module, matrices(pl_module, self.include, self.exclude, "weight_histogram.include"))
            for name, value in _metrics(fits).items():
                pl_module.log(name, value, rank_zero_only=True)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the start against the end."""
        if not trainer.is_global_zero or self._before is None:
            return
        tensors = matrices(pl_module, self.include, self.exclude, "weight_histogram.include")
        shown = {name: tensors[name].float().cpu() for name in list(tensors)[: self.panels]}
        fits = fitted_shapes(pl_module, tensors)
        log_figure(trainer, "weights_end", weight_figure(self._before, shown, fits, self.bins))


def _metrics(fits: dict[str, gg.ShapeFit]) -> dict[str, float]:
    values = {f"weights/shape/{name}" if name else "weights/shape": fit.shape for name, fit in fits.items()}
    values |= {f"weights/std/{name}": fit.std for name, fit in fits.items() if name}
    return {name: value for name, value in values.items() if not math.isnan(value)}  # a tensor of zeros has no shape
