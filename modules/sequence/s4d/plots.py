"""Figures of the method's own quantities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def memory_figure(
    delays: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    reference: Mapping[str, Mapping[int, float]],
    floor: float | None = None,
) -> Figure:
    """Draws linear memory R² against delay for each initialisation, with reference values as crosses.

    Args:
        delays: Delays in samples.
        curves: Name to R² at each delay.
        reference: Name to {delay: R²}.
        floor: A level to mark, such as the R² of predicting from the current sample alone; optional.
    """
    figure = new_figure(size=(6.4, 4.0))
    axes = figure.axes[0]
    for index, (name, values) in enumerate(curves.items()):
        colour = f"C{index}"
        axes.plot(delays, values, color=colour, label=name)
        marks = reference.get(name, {})
        axes.plot(list(marks), list(marks.values()), "x", color=colour, markersize=7, markeredgewidth=1.8)
    axes.plot([], [], "kx", label="reference")
    if floor is not None:
        axes.axhline(floor, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        xlabel="delay d [samples]",
        ylabel="R² of $u_{k-d}$ from the state",
        ylim=(-0.02, 1.03),
        title="Memory of a frozen diagonal SSM (N = 64, Δ = 1/256)",
    )
    axes.set_xticks([1, 4, 16, 64, 256], labels=["1", "4", "16", "64", "256"])
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def training_figure(accuracy: Mapping[str, Sequence[float]], reference: Mapping[str, float]) -> Figure:
    """Draws test accuracy of each initialisation: a dot for each seed, a bar for the mean, a cross for references."""
    figure = new_figure(size=(6.0, 3.8))
    axes = figure.axes[0]
    names = list(accuracy)
    for index, name in enumerate(names):
        values = np.asarray(accuracy[name])
        axes.bar(index, values.mean(), width=0.6, color=f"C{index}", alpha=0.35)
        spread = np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(index + spread, values, "o", color=f"C{index}", markersize=5)
        if name in reference:
            axes.plot(index + 0.24, reference[name], "kx", markersize=7)
    axes.plot([], [], "o", color="0.4", label="one seed")
    axes.plot([], [], "kx", label="reference")
    axes.set_xticks(range(len(names)), labels=names)
    axes.set(ylabel="test accuracy", ylim=(0, 1), title="5,000 digits, 2×2-pooled (L = 196), 3 epochs")
    axes.legend(frameon=False, loc="upper right")
    return figure
