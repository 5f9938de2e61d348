"""Figures of GrokAlign's claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float, float]]


def acceleration_figure(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]], thresholds: Sequence[float], units: Sequence[str]
) -> Figure:
    """Draws test accuracies over log steps: a colour for each arm, a line for each seed; training accuracies dotted.

    Args:
        panels: By title and arm, for each seed (step, training accuracy, test accuracy).
        thresholds: For each panel the accuracy that counts.
        units: For each panel the label of the steps.
    """
    figure = new_figure(1, len(panels))
    for axes, (title, arms), threshold, unit in zip(figure.axes, panels.items(), thresholds, units, strict=True):
        for number, (arm, curves) in enumerate(arms.items()):
            for index, curve in enumerate(curves):
                steps, train, test = zip(*curve, strict=True)
                axes.plot(steps, test, color=f"C{number}", linewidth=1.2, label=arm if index == 0 else None)
                axes.plot(steps, train, ":", color=f"C{number}", linewidth=0.7)
        axes.axhline(threshold, color="0.7", linewidth=0.8, zorder=0)
        axes.set(xlabel=unit, ylabel="accuracy (dotted: training)", xscale="log", ylim=(0, 1.02), title=title)
        axes.legend(frameon=False, fontsize=7, loc="lower right")
    return figure
