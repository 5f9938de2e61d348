"""The figure of a learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure
from framework.functional.linear_heads.curve import NAIVE_BAYES, LearningCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def curve_figure(curves: Mapping[str, LearningCurve]) -> Figure:
    """Draws the error over the number of samples (mean and deviation over draws), and where the better head changes.

    Args:
        curves: Maps a title to each curve.
    """
    figure = new_figure(1, len(curves), size=(4.8 * len(curves), 3.6))
    for axes, (title, curve) in zip(figure.axes, curves.items(), strict=True):
        means = np.concatenate([errors.mean(1) for errors in curve.errors.values()])
        floor = 0.7 * max(LEVELS[0], means.min())  # an error of 0 is drawn at the bottom
        for index, (name, errors) in enumerate(curve.errors.items()):
            colour = "C3" if name == NAIVE_BAYES else f"C{index - 1}"
            spread = errors.std(1)
            mean = errors.mean(1).clip(floor)
            axes.plot(curve.sizes, mean, "o-", color=colour, markersize=3.5, linewidth=1.2, label=name)
            axes.fill_between(
                curve.sizes, (mean - spread).clip(floor), mean + spread, color=colour, alpha=0.15, linewidth=0
            )
        point = curve.crossover()
        if point == point:
            axes.axvline(point, color="0.5", linestyle=":", label=f"crossover, m = {point:.0f}")
        axes.set(xscale="log", yscale="log", xlabel="samples m", ylabel="error", title=title)
        axes.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes], size=7, rotation=45)
        low, high = floor, axes.get_ylim()[1]
        axes.set_ylim(low, high)
        levels = [level for level in LEVELS if low <= level <= high]
        axes.set_yticks(levels, [f"{level:g}" for level in levels])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    return figure
