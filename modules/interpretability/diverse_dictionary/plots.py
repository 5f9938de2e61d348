"""Figures of the claims: scores of each arm, and supports found with and without the penalty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure
from framework.functional.identifiability.figures import show_dependencies

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def arms_figure(
    scores: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]], baselines: Mapping[str, float]
) -> Figure:
    """Draws scores of each structure without and with the penalty, a point for each seed and a line for the mean."""
    figure = new_figure(columns=len(scores), size=(5.2 * len(scores), 3.6))
    for axes, (name, arms) in zip(figure.axes, scores.items(), strict=True):
        for place, (structure, weights) in enumerate(arms.items()):
            for shift, (weight, values) in zip((-0.17, 0.17), weights.items(), strict=True):
                colour = "0.55" if weight == 0 else "C0"
                label = "no penalty" if weight == 0 else f"weight {weight:g}"
                axes.plot([place + shift] * len(values), values, "o", color=colour, markersize=4, alpha=0.7)
                mean, left, right = float(np.mean(values)), place + shift - 0.13, place + shift + 0.13
                axes.hlines(mean, left, right, colour, lw=2, label="_" if place else label)
            if name == "F1 of the support":
                label = "_" if place else "all ones"
                axes.hlines(baselines[structure], place - 0.4, place + 0.4, "C3", linestyles=":", label=label)
        axes.set_xticks(range(len(arms)), [structure.replace(", ", "\n") for structure in arms])
        axes.set(ylabel=name, ylim=(0, 1.03))
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def supports_figure(pictures: Mapping[str, np.ndarray]) -> Figure:
    """Draws matrices of observations by latents side by side."""
    figure = new_figure(columns=len(pictures), size=(2.9 * len(pictures), 3.0))
    for axes, (title, matrix) in zip(figure.axes, pictures.items(), strict=True):
        show_dependencies(axes, matrix, title)
    return figure
