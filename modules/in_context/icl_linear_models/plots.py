"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure
from modules.in_context.plots import draw_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def readout_figure(learnt: np.ndarray, predicted: np.ndarray, found: Mapping[str, np.ndarray]) -> Figure:
    """Draws the learnt readout, the predicted one, and the distance between them over steps.

    Args:
        learnt: u U (d, d) of one member.
        predicted: (d, d).
        found: A trajectory: ``step`` (R,), ``distance`` (R, E).
    """
    figure = new_figure(1, 3, size=(10.5, 3.2))
    left, right, axes = figure.axes
    draw_matrix(left, learnt, "learnt u U")
    draw_matrix(right, predicted, "predicted")
    if "distance" in found:
        axes.plot(found["step"], found["distance"], "o", markersize=2.5, color="C0", alpha=0.6)
        axes.set(xlabel="steps", ylabel="relative distance", yscale="log")
    return figure


def flow_figure(time: np.ndarray, loss: np.ndarray, floor: float, step: np.ndarray, trained: np.ndarray) -> Figure:
    """Draws the loss above its limit along gradient flow (line), and of small gradient steps on prompts (points).

    Args:
        time: (R,) of the flow.
        loss: (R,) of the flow.
        floor: The limit's loss.
        step: (S,) times of the steps.
        trained: (S,) population loss of the trained weights.
    """
    figure = new_figure(size=(5.2, 3.6))
    axes = figure.axes[0]
    axes.plot(time, loss - floor, "k", linewidth=1, label="gradient flow")
    axes.plot(step, trained - floor, "o", markersize=3, color="C0", label="gradient descent on prompts")
    axes.set(xlabel="time", ylabel="loss above its limit", xscale="log", yscale="log", ylim=(1e-5, None))
    axes.legend(frameon=False, fontsize=8)
    return figure


def scaling_figure(
    scales: np.ndarray, theory: np.ndarray, points: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Draws error over c² when all covariates are scaled by c: the limit's line, and points of models.

    Args:
        scales: c (R,) of the line.
        theory: (R,).
        points: Label to c and error over c².
    """
    figure = new_figure(size=(5.2, 3.6))
    axes = figure.axes[0]
    axes.plot(scales, theory, "k", linewidth=1, label="linear attention, predicted")
    for index, (label, (c, value)) in enumerate(points.items()):
        exact = bool((value < 1e-9).all())  # cannot be shown on a log scale
        shown = np.full(len(c), np.nan) if exact else value
        axes.plot(c, shown, "o", markersize=4, color=f"C{index}", label=f"{label}: 0" if exact else label)
    axes.set(xlabel="covariates times c", ylabel="mean squared error / c²", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return figure
