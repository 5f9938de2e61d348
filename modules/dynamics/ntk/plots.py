"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"loss": "loss", "along": "|g|, along the component", "across": "‖h‖, across it"}


def fan_figure(found: Mapping[str, np.ndarray], name: str) -> Figure:
    """Draws a measurement of each member over steps (points), and its prediction (lines)."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    axes.plot(found["step"], found[name], "o", markersize=3, color="C0", alpha=0.6)
    axes.plot(found["step"], found[f"{name}/theory"], "k", linewidth=0.8)
    axes.plot([], [], "o", markersize=3, color="C0", label="networks")
    axes.plot([], [], "k", linewidth=0.8, label="infinite width")
    axes.set(xlabel="steps", ylabel=LABELS[name], yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return figure


def kernel_figure(angles: np.ndarray, limit: np.ndarray, kernels: Mapping[str, np.ndarray]) -> Figure:
    """Θ(x₀, (cos γ, sin γ)) of networks (points, one colour for each width and time) and of infinite width (line).

    Args:
        angles: γ (P,).
        limit: (P,).
        kernels: Label to (E, P).
    """
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for index, (label, values) in enumerate(kernels.items()):
        axes.plot(angles, values.T, "o", markersize=2.5, alpha=0.6, color=f"C{index}")
        axes.plot([], [], "o", markersize=2.5, color=f"C{index}", label=label)
    axes.plot(angles, limit, "k", linewidth=1, label="infinite width")
    axes.set(xlabel="γ", ylabel="Θ((1, 0), (cos γ, sin γ))")
    axes.legend(frameon=False, fontsize=8)
    return figure


def functions_figure(
    angles: np.ndarray, networks: Mapping[str, np.ndarray], mean: np.ndarray, deviation: np.ndarray, data: np.ndarray
) -> Figure:
    """Draws trained networks on the circle, their 10th, 50th and 90th percentiles as points, and the limit's as lines.

    Args:
        angles: γ (P,).
        networks: Label to (E, P).
        mean: Of f_∞, (P,).
        deviation: Standard deviation of f_∞, (P,).
        data: γ and targets of the data, (N, 2).
    """
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for index, (label, values) in enumerate(networks.items()):
        axes.plot(angles, np.percentile(values, [10, 50, 90], axis=0).T, "o", markersize=2.5, color=f"C{index}")
        axes.plot([], [], "o", markersize=2.5, color=f"C{index}", label=label)
    for factor in (-1.2816, 0.0, 1.2816):
        axes.plot(angles, mean + factor * deviation, "k", linewidth=1)
    axes.plot([], [], "k", linewidth=1, label="infinite width")
    axes.plot(*data.T, "x", color="C3", label="data")
    axes.set(xlabel="γ", ylabel="f after training (10, 50, 90 %)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def components_figure(runs: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws |g| and ‖h‖ over steps for each width (points), and the limit (lines)."""
    figure = new_figure(1, 2)
    for axes, name in zip(figure.axes, ("along", "across"), strict=True):
        for index, (label, found) in enumerate(runs.items()):
            axes.plot(found["step"], found[name].mean(1), "o", markersize=3, color=f"C{index}", label=label)
        first = next(iter(runs.values()))
        axes.plot(first["step"], first[f"{name}/theory"].mean(1), "k", linewidth=1, label="infinite width")
        axes.set(xlabel="steps", ylabel=LABELS[name])
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
