"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def errors_figure(found: Mapping[str, np.ndarray], optimum: float) -> Figure:
    """Draws errors over steps, of single starts and of the average over starts, with the optimum."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    axes.plot(found["step"], found["error"].mean(1), "o", markersize=3, label="single start, mean")
    if found["error"].shape[1] > 1:
        axes.plot(found["step"], found["average_error"][:, 0], "s", markersize=3, label="average over starts")
    axes.axhline(optimum, color="k", linewidth=1, label="MMSE")
    axes.set(xlabel="step", ylabel="κ |S − Ŝ|² / d", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return figure


def curves_figure(theory: Mapping[str, tuple[np.ndarray, np.ndarray]], points: Mapping[str, tuple]) -> Figure:
    """Draws MMSE over α as lines, and measured errors of the same names with standard deviations as points."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for index, (name, curve) in enumerate(theory.items()):
        axes.plot(*curve, color=f"C{index}", linewidth=1, label=name)
        if name in points:
            alpha, mean, deviation = points[name]
            axes.errorbar(alpha, mean, deviation, fmt="o", markersize=4, color=f"C{index}")
    # with noise the optimum is 0 nowhere, and its curve continues far beyond the measured α
    axes.set(xlabel="α = n / d²", ylabel="κ |S − Ŝ|² / d", ylim=(0, 1.02), xlim=(0, 0.55))
    axes.legend(frameon=False, fontsize=8)
    return figure


def phase_figure(kappas: np.ndarray, alphas: np.ndarray, optimum: np.ndarray, recovery: np.ndarray) -> Figure:
    """Draws the optimal error as a heat map over κ and α, with a line where it becomes 0.

    Args:
        kappas: (K,), ascending.
        alphas: (A,), ascending.
        optimum: (A, K).
        recovery: α_PR (K,).
    """
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    image = axes.pcolormesh(kappas, alphas, optimum, shading="gouraud", cmap="viridis", vmin=0, vmax=1)
    axes.plot(kappas, recovery, "w", linewidth=1.5, label="α_PR: 0 from here on")
    axes.set(xlabel="κ = m / d", ylabel="α = n / d²")
    axes.legend(frameon=False, fontsize=8, labelcolor="white", loc="upper right")
    figure.colorbar(image, ax=axes, label="MMSE, no noise")
    return figure


def optima_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draws noiseless optimal errors over α, a line for each κ."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for name, curve in curves.items():
        axes.plot(*curve, linewidth=1, label=name)
    axes.set(xlabel="α = n / d²", ylabel="MMSE, no noise", xlim=(0, 0.52), ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=8)
    return figure
