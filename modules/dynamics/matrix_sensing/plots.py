"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[np.ndarray, np.ndarray]


def thinned(curve: Curve, points: int = 30) -> Curve:
    """About ``points`` of a curve, evenly along the logarithm of the steps."""
    steps, values = curve
    wanted = np.geomspace(max(1, steps[steps > 0].min(initial=1)), steps.max(), points)
    keep = np.unique(np.searchsorted(steps, wanted).clip(max=len(steps) - 1))
    return steps[keep], values[keep]


def errors_figure(measured: Mapping[str, Curve], predicted: Mapping[str, Curve]) -> Figure:
    """Draws errors over steps, both axes logarithmic: points, and lines for the theory of the symmetric form."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for index, (name, curve) in enumerate(measured.items()):
        axes.plot(*thinned(curve), "o", markersize=3.5, color=f"C{index}", label=name)
        if name in predicted:
            steps, values = predicted[name]
            late = steps > 10
            axes.plot(steps[late], values[late], color=f"C{index}", linewidth=1)
    if predicted:
        axes.plot([], [], color="0.4", linewidth=1, label="√(k − r) / (2 η T)")
    axes.set(xscale="log", yscale="log", xlabel="steps T", ylabel="|Z − M|", ylim=(1e-16, 10))
    axes.legend(frameon=False, fontsize=8)
    return figure


def rates_figure(found: Mapping[str, np.ndarray], predicted: np.ndarray, measured: np.ndarray) -> Figure:
    """Draws errors of the asymmetric form with the predicted slopes, and measured against predicted rates."""
    figure = new_figure(1, 2, size=(9.6, 3.8))
    left, right = figure.axes
    alphas = sorted(set(found["alpha"].tolist()))
    for index, alpha in enumerate(alphas):
        member = int(np.flatnonzero(found["alpha"] == alpha)[0])
        error = found["error"][:, member]
        keep = np.flatnonzero(error > 1e-13)
        keep = keep[:: max(1, len(keep) // 40)]
        left.plot(found["step"][keep], error[keep], "o", markersize=3, color=f"C{index}", label=f"α = {alpha:g}")
        window = np.flatnonzero((error > 1e-9) & (error < 1e-4))
        if len(window):
            steps = found["step"][window]
            start = error[window[0]]
            left.plot(steps, start * np.exp(-predicted[member] * (steps - steps[0])), "k", linewidth=1)
    left.plot([], [], "k", linewidth=1, label="predicted slope")
    left.set(yscale="log", xscale="log", xlabel="steps T", ylabel="|F Gᵀ − M|", xlim=(10, None))
    left.legend(frameon=False, fontsize=8)
    right.plot(predicted, predicted, "k", linewidth=1, label="prediction")
    right.plot(predicted, measured, "o", markersize=5, label="measured")
    right.set(xscale="log", yscale="log", xlabel="predicted rate", ylabel="rate")
    for axis in (right.xaxis, right.yaxis):
        axis.set_minor_formatter("")
    right.legend(frameon=False, fontsize=8)
    return figure


def acceleration_figure(found: Mapping[str, np.ndarray], without: Mapping[str, np.ndarray]) -> Figure:
    """Draws errors with the rebalancing step (points) and without it (lines)."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for index, alpha in enumerate(found["alpha"].tolist()):
        near = without["step"] <= 1000
        axes.plot(without["step"][near], without["error"][near, index], color=f"C{index}", label=f"α = {alpha:g}")
        late = found["step"] >= 500
        axes.plot(found["step"][late], found["error"][late, index], "o", markersize=3, color=f"C{index}")
    axes.plot([], [], "o", markersize=3, color="0.4", label="after the step")
    axes.set(yscale="log", xlabel="steps T", ylabel="|F Gᵀ − M|")
    axes.set_title("F ← β Q at step 500", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    return figure


def spectra_figure(steps: np.ndarray, values: np.ndarray) -> Figure:
    """Singular values (R, k) of the product over steps (R,): the matrix's own, and the redundant ones that decay."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for index, curve in enumerate(values.T):
        axes.plot(steps, curve, "o-", markersize=2.5, linewidth=0.8, color=f"C{index}", label=f"σ{index + 1}")
    axes.set(xscale="log", yscale="log", xlabel="steps T", ylabel="singular values of F Gᵀ", ylim=(1e-9, 2))
    axes.legend(frameon=False, fontsize=8)
    return figure
