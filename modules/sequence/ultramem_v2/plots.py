"""Figures of the method's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def facts_figure(
    accuracy: Mapping[int, Mapping[str, Sequence[float]]], reference: Mapping[int, Mapping[str, float]]
) -> Figure:
    """Recall accuracy of each model, a panel for each number of facts; a dot for each seed, a cross for references."""
    figure = new_figure(1, len(accuracy), size=(4.2 * len(accuracy), 3.4))
    for axes, (facts, models) in zip(figure.axes, accuracy.items(), strict=True):
        for index, (name, values) in enumerate(models.items()):
            axes.bar(index, np.mean(values), width=0.6, color=f"C{index}", alpha=0.35)
            axes.plot(index + np.linspace(-0.12, 0.12, len(values)), values, "o", color=f"C{index}", markersize=4)
            if name in reference[facts]:
                axes.plot(index + 0.24, reference[facts][name], "kx", markersize=7)
        axes.set_xticks(range(len(models)), labels=list(models), fontsize=8)
        axes.set(ylim=(0, 1.05), ylabel="accuracy", title=f"{facts:,} random facts (cross: reference)")
    return figure


def bytes_figure(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Draws validation loss of each model, one line for each seed."""
    figure = new_figure(size=(4.6, 3.4))
    axes = figure.axes[0]
    names = list(losses)
    for seed, values in enumerate(zip(*losses.values(), strict=True)):
        axes.plot(range(len(names)), values, "o-", color=f"C{seed}", label=f"seed {seed}")
    axes.set_xticks(range(len(names)), labels=names)
    axes.set(ylabel="val/loss [nats a byte]", title="bytes of code, equal multiply-adds", xlim=(-0.4, len(names) - 0.6))
    axes.legend(frameon=False)
    return figure


def spread_figure(recall: Mapping[float, float], ratios: Mapping[str, tuple[float, float]]) -> Figure:
    """Draws recall of retrieval against λ₂/λ₁, and mean score and output variance after the initialisation.

    Args:
        recall: Maps λ₂/λ₁ to the share of the reachable best slots that are found.
        ratios: Maps a configuration to (mean selected score, output variance divided by its target).
    """
    figure = new_figure(1, 2)
    left, right = figure.axes
    left.plot(list(recall), list(recall.values()), "o-")
    left.set(xlabel="λ₂ / λ₁", ylabel="recall of the best slots", title="TDQKR, N = 64, m = 16")
    names = list(ratios)
    for offset, (label, column) in enumerate((("mean score", 0), ("variance / target", 1))):
        right.plot(np.arange(len(names)) + 0.1 * offset, [ratios[name][column] for name in names], "o", label=label)
    right.axhspan(0.85, 1.15, color="0.9")
    right.set_xticks(range(len(names)), labels=names, fontsize=7, rotation=20)
    right.set(title="after the calibration", ylim=(0.8, 1.2))
    right.legend(frameon=False, fontsize=8)
    return figure
