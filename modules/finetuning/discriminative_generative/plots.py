"""Figures of the assumptions, and of the number of samples that each head needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from framework.figures import new_figure
from modules.finetuning.discriminative_generative.theory import Assumptions, deciles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def assumptions_figure(found: Assumptions) -> Figure:
    """Draws histograms of v, β and α with their medians."""
    figure = new_figure(1, 3, size=(10.5, 3.2))
    titles: Sequence[tuple[str, Tensor]] = (
        ("variance within classes, v", found.variances),
        ("β, bounded below", found.beta),
        ("α, bounded above", found.alpha),
    )
    for axes, (title, values) in zip(figure.axes, titles, strict=True):
        known = values[~values.isnan()].numpy()
        axes.hist(known, bins=40, color="C0")
        median = deciles(values)[4]
        axes.axvline(median, color="C3", linewidth=1, label=f"median {median:.3g}")
        axes.set(xlabel=title)
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set(ylabel="features")
    for axes in figure.axes[1:]:
        axes.set(ylabel="pairs of classes")
    return figure


def samples_figure(needed: Mapping[str, Mapping[int, Sequence[int]]], slopes: Mapping[str, float]) -> Figure:
    """Draws m* over n on logarithmic axes: a point for each draw, a line of the fitted slope.

    Args:
        needed: Name of a head and its K to {n: m* of each draw}.
        slopes: Slopes of the fitted lines.
    """
    figure = new_figure(size=(5.6, 4.0))
    axes = figure.axes[0]
    for index, (name, found) in enumerate(needed.items()):
        n = np.array(list(found))
        means = np.array([np.mean(found[key]) for key in found])
        mark = "s" if "logistic" in name else "o"
        label = f"{name}, slope {slopes[name]:.2f}" if name in slopes else name
        for key, draws in found.items():
            axes.plot([key] * len(draws), draws, mark, color=f"C{index}", markersize=3, alpha=0.3)
        axes.plot(n, means, mark, color=f"C{index}", markersize=5, label=label)
        if name in slopes:
            line = np.exp(np.log(means).mean() + slopes[name] * (np.log(n) - np.log(n).mean()))
            axes.plot(n, line, color=f"C{index}", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="dimension n", ylabel="samples m* for error < Bayes + 0.01")
    ticks = sorted({key for found in needed.values() for key in found})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure
