"""Figures of predicted weights (Zhou et al. 2024, arXiv 2405.16287)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves_figure(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draws the accuracy over epochs, from 0 on, a panel for each network.

    Args:
        curves: Accuracies by start, by network.
    """
    figure = new_figure(2, (len(curves) + 1) // 2, size=(3.2 * ((len(curves) + 1) // 2), 5.6))
    for axes, (network, starts) in zip(figure.axes, curves.items(), strict=False):
        for name, values in starts.items():
            axes.plot(range(len(values)), values, "o-", markersize=3, label=name)
        axes.set(title=network, xlabel="epochs", ylim=(0, 1.02))
        axes.title.set_fontsize(9)
        axes.set_xticks(range(max(map(len, starts.values()))))
    figure.axes[0].set_ylabel("test accuracy")
    figure.axes[0].legend(frameon=False, fontsize=7, loc="lower right")
    for axes in figure.axes[len(curves) :]:
        axes.axis("off")
    return figure
