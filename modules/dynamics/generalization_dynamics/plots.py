"""Pictures: lines for what is predicted, points for what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def errors_figure(found: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Test and training error over time: means over draws with their standard errors, and the theory as lines."""
    figure = new_figure(1, 2, size=(9.2, 3.6))
    for axes, name in zip(figure.axes, ("test_error", "train_error"), strict=True):
        for index, (label, values) in enumerate(found.items()):
            time = values["time"][:, 0]
            later = time > 0
            mean, draws = values[name].mean(1), values[name].shape[1]
            spread = values[name].std(1) / max(1, draws) ** 0.5
            axes.errorbar(
                time[later], mean[later], spread[later], fmt="o", markersize=3, color=f"C{index}", label=label
            )
            axes.plot(time[later], values[f"{name}/theory"][later, 0], color=f"C{index}", linewidth=1)
        axes.plot([], [], color="0.4", linewidth=1, label="theory")
        axes.set(xscale="log", xlabel="time", ylabel=name.replace("_", " "))
        axes.legend(frameon=False, fontsize=8)
    return figure


def double_descent_figure(
    widths: Sequence[Sequence[int]], curves: Mapping[str, Mapping[str, Sequence[float]]], examples: int
) -> Figure:
    """Test error against the number of features, stopped at the best time and at the end, one panel a data set."""
    figure = new_figure(1, len(curves), size=(4.6 * len(curves), 3.6))
    for axes, counts, (title, by_name) in zip(figure.axes, widths, curves.items(), strict=True):
        for index, (name, values) in enumerate(by_name.items()):
            axes.plot(counts, values, "o-", markersize=4, color=f"C{index}", label=name)
        axes.axvline(examples, color="0.5", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="features N_h (dotted: examples)", ylabel="test error", title=title)
        axes.legend(frameon=False, fontsize=8)
    return figure
