"""Figures of the method's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def interference_figure(
    predicted: Mapping[str, Sequence[float]], measured: Mapping[str, Sequence[float]], pairs: Sequence[int]
) -> Figure:
    """Draws error of reading a pair back against the number of pairs: lines for the law, dots for the simulation."""
    figure = new_figure(size=(5.6, 3.6))
    axes = figure.axes[0]
    for index, (name, values) in enumerate(predicted.items()):
        axes.plot(pairs, values, color=f"C{index}", label=name)
        axes.plot(pairs, measured[name], "o", color=f"C{index}", markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="pairs n", ylabel="|o − v|² / |v|²")
    axes.set_title("Interference of random pairs, d = 32 (dots: simulated)", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return figure


def recall_figure(accuracy: Mapping[str, Sequence[float]], reference: Mapping[str, Sequence[float]]) -> Figure:
    """Draws query accuracy of each model: a dot for each seed, a bar for the mean, crosses for references."""
    figure = new_figure(size=(7.2, 3.8))
    axes = figure.axes[0]
    for index, (name, values) in enumerate(accuracy.items()):
        axes.bar(index, np.mean(values), width=0.6, color=f"C{index}", alpha=0.35)
        axes.plot(index + np.linspace(-0.1, 0.1, len(values)), values, "o", color=f"C{index}", markersize=5)
        marks = reference.get(name, ())
        axes.plot([index + 0.22] * len(marks), marks, "kx", markersize=6)
        axes.text(index, 0.02, f"{np.mean(values):.3f}", ha="center", fontsize=8)
    axes.plot([], [], "o", color="0.4", label="one seed")
    axes.plot([], [], "kx", label="reference")
    axes.set_xticks(range(len(accuracy)), labels=list(accuracy), fontsize=7)
    axes.set(ylabel="query accuracy", ylim=(0, 1.02), title="32 pairs, 8 key dimensions a memory")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.1), fontsize=8)
    return figure
