"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure
from modules.dynamics.generalization_dynamics.theory import density

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def errors_figure(found: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draws test and training error over time: means over draws with their standard errors, and the theory as lines."""
    figure = new_figure(1, 2, size=(9.2, 3.6))
    for axes, name in zip(figure.axes, ("test_error", "train_error"), strict=True):
        for index, (label, values) in enumerate(found.items()):
            time = values["time"][:, 0]
            later = time > 0
            mean, draws = values[name].mean(1), values[name].shape[1]
            spread = values[name].std(1) / max(1, draws) ** 0.5
            axes.errorbar(
                time[later], mean[later], spread[later], fmt="o", markersize=3, color=f"C{index}", label=label
            )
            axes.plot(time[later], values[f"{name}/theory"][later, 0], color=f"C{index}", linewidth=1)
        axes.plot([], [], color="0.4", linewidth=1, label="theory")
        axes.set(xscale="log", xlabel="time", ylabel=name.replace("_", " "))
        axes.legend(frameon=False, fontsize=8)
    return figure


def double_descent_figure(
    panels: Sequence[tuple[Sequence[int], int]], curves: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Draws test error against the number of features, stopped at the best time and at the end, one panel for each data
    set.

    Args:
        panels: Widths, and the number of examples, of each data set.
        curves: By data set and by name, a value for each width.
    """
    figure = new_figure(1, len(curves), size=(4.4 * len(curves), 3.6))
    for axes, (counts, examples), (title, by_name) in zip(figure.axes, panels, curves.items(), strict=True):
        for index, (name, values) in enumerate(by_name.items()):
            axes.plot(counts, values, "o-", markersize=4, color=f"C{index}", label=name)
        axes.axvline(examples, color="0.5", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="features N_h (dotted: examples)", ylabel="test error", title=title)
        axes.legend(frameon=False, fontsize=8)
    return figure


def spectra_figure(panels: Mapping[int, tuple[np.ndarray, float]], examples: int) -> Figure:
    """Draws histograms of the small eigenvalues of hidden activity, and Marchenko-Pastur's density, for each width.

    Args:
        panels: By width: eigenvalues in the law's units, and its α.
        examples: P.
    """
    figure = new_figure(1, len(panels), size=(3.7 * len(panels), 3.2))
    for axes, (width, (values, alpha)) in zip(figure.axes, panels.items(), strict=True):
        heights, edges = np.histogram(values, min(40, max(8, len(values) // 15)), density=True)
        axes.stairs(heights * min(1.0, alpha), edges, fill=True, color="C0", alpha=0.5, label="measured")
        x = np.linspace(edges[0] * 0.5, edges[-1] * 1.05, 800)
        axes.plot(x, density(x, alpha), color="k", linewidth=1, label="Marchenko-Pastur")
        axes.set(xlabel="eigenvalue (scaled)", title=f"N_h = {width}, P = {examples}")
        axes.set_ylim(0, 1.4 * float(np.sort(heights)[-2]) * min(1.0, alpha))
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("density")
    return figure


def over_widths(found: Mapping[str, np.ndarray], name: str = "test_error") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Widths (W,); each one's smallest error over time (mean of draws) and last error (median: heavy tails)."""
    widths = np.unique(found["width"])
    members = [found["width"] == width for width in widths]
    best = np.array([found[name][:, chosen].min(0).mean() for chosen in members])
    return widths, best, np.array([np.median(found[name][-1, chosen]) for chosen in members])


def widths_figure(found: Mapping[str, np.ndarray]) -> Figure:
    """Draws test error over time for each width (medians of draws), and stopped at the best time and at the end."""
    figure = new_figure(1, 2, size=(9.2, 3.6))
    left, right = figure.axes
    widths, best, last = over_widths(found)
    later = found["time"][:, 0] > 0
    for index, width in enumerate(widths):
        values = np.median(found["test_error"][:, found["width"] == width], 1)
        color = (0.1, 0.3, 0.75, 0.25 + 0.75 * (index + 1) / len(widths))
        left.plot(found["time"][later, 0], values[later], color=color, linewidth=1, label=f"{width:g}")
    left.set(xscale="log", yscale="log", xlabel="time", ylabel="test error")
    left.legend(title="features", frameon=False, fontsize=7, title_fontsize=8)
    for values, name in ((best, "stopped at the best time"), (last, "at the end (median)")):
        right.plot(widths, values, "o-", markersize=4, label=name)
    right.set(xscale="log", yscale="log", xlabel="features N_h", ylabel="test error")
    right.legend(frameon=False, fontsize=8)
    return figure
