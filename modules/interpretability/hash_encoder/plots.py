"""Figures: redundancy and accuracy over width and time, and the chart of the three regimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#d9795d", "#f2d58a", "#7fb39b")  # under-expressive, critical, sufficiently expressive
NAMES = ("under-expressive", "critically expressive", "sufficiently expressive")


def widths_figure(redundancy: Mapping[str, Sequence[float]], accuracy: Mapping[str, Sequence[float]]) -> Figure:
    """Draws redundancy ratios and accuracies over width.

    Args:
        redundancy: ``width``, and values by label.
        accuracy: The same.
    """
    figure = new_figure(1, 2, size=(9.5, 3.6))
    for axes, found, label in zip(
        figure.axes, (redundancy, accuracy), ("redundancy ratio", "accuracy of codes"), strict=True
    ):
        for name, values in found.items():
            if name != "width":
                axes.plot(found["width"], values, "o-", markersize=3, label=name)
        axes.set(xlabel="width", ylabel=label, ylim=(-0.02, 1.02))
        axes.legend(frameon=False, fontsize=8)
    return figure


def time_figure(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draws the redundancy ratio over epochs, (epoch, ratio), one line for each label."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=label)
    axes.set_xscale("symlog", linthresh=1)
    axes.set(xlabel="epochs", ylabel="redundancy ratio", ylim=(-0.02, 1.02))
    epochs = sorted({epoch for points in curves.values() for epoch, _ in points})
    axes.set_xticks(epochs, [f"{epoch:g}" for epoch in epochs])
    axes.legend(frameon=False, fontsize=8)
    return figure


def phase_figure(
    maps: Mapping[str, np.ndarray],
    rows: Sequence[float],
    columns: Sequence[float],
    labels: tuple[str, str],
    under: float = 0.5,
    sufficient: float = 0.01,
) -> Figure:
    """Draws maps of the redundancy ratio, coloured by regime, with the ratio in each cell.

    Args:
        maps: Title to ratios (R, C); NaN where nothing was measured.
        rows: Values of the rows.
        columns: Values of the columns.
        labels: What columns and rows are.
        under: Ratio from which a cell is under-expressive.
        sufficient: Ratio up to which it is sufficiently expressive.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    across = min(len(maps), 2)
    down = -(-len(maps) // across)
    size = (max(4.6, 0.62 * len(columns) + 1.0) * across, (0.42 * len(rows) + 1.1) * down + 0.6)
    figure = new_figure(down, across, size=size)
    for spare in figure.axes[len(maps) :]:
        figure.delaxes(spare)
    colours = ListedColormap(COLOURS)
    for axes, (title, values) in zip(figure.axes, maps.items(), strict=True):
        regime = np.where(values >= under, 0.0, np.where(values <= sufficient, 2.0, 1.0))
        axes.imshow(
            np.where(np.isnan(values), np.nan, regime), origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=2
        )
        _cells(axes, values)
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_title(title, fontsize=9)
    texts = (f"RR ≥ {under:g}", "between", f"RR ≤ {sufficient:g}")
    handles = [Patch(color=c, label=f"{n} ({t})") for c, n, t in zip(COLOURS, NAMES, texts, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def _cells(axes: Axes, values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            text = f"{value:.2f}" if value >= 0.01 else ("0" if value == 0 else f"{value:.3f}")
            axes.text(column, row, text.replace("0.", "."), ha="center", va="center", fontsize=7)
