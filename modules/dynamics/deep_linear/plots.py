"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def modes_figure(found: Mapping[str, np.ndarray], tracked: Sequence[int], member: int = 0) -> Figure:
    """Draws strengths of modes over steps: points, and the exact solution as lines."""
    figure = new_figure(size=(5.8, 3.8))
    axes = figure.axes[0]
    steps = found["step"]
    shown = np.unique(np.linspace(0, len(steps) - 1, 60).astype(int))
    for index, mode in enumerate(tracked):
        name = f"mode/{mode}"
        axes.plot(steps[shown], found[name][shown, member], "o", markersize=3, color=f"C{index}", label=f"mode {mode}")
        if f"{name}/theory" in found:
            axes.plot(steps, found[f"{name}/theory"][:, member], color="k", linewidth=1)
    if f"mode/{tracked[0]}/theory" in found:
        axes.plot([], [], color="k", linewidth=1, label="exact")
    axes.set(xlabel="iterations", ylabel="strength in W")
    axes.legend(frameon=False, fontsize=8)
    return figure


def traces_figure(
    exact: Mapping[str, np.ndarray], traces: Mapping[str, Mapping[str, np.ndarray]], tracked: Sequence[int]
) -> Figure:
    """Strengths of modes of networks that start small, one panel for each kind, and the exact solution as lines."""
    figure = new_figure(1, len(traces), size=(4.8 * len(traces) + 1.2, 3.8))
    for axes, (name, found) in zip(figure.axes, traces.items(), strict=True):
        for index, mode in enumerate(tracked):
            key, color = f"mode/{mode}", f"C{index}"
            axes.plot(found["step"][::8], found[key][::8, 0], "o", markersize=3, color=color, label=f"mode {mode}")
            axes.plot(exact["step"], exact[f"{key}/theory"][:, 0], color="k", linewidth=1)
        axes.plot([], [], color="k", linewidth=1, label="exact, linear")
        axes.set(xlabel="iterations", ylabel="strength", title=f"{name}, small random start", xlim=(0, 2000))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure


def delay_figure(found: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """Draws delay of half-learning relative to eq. 11 for each mode: mean and deviation over draws."""
    figure = new_figure(size=(5.0, 3.4))
    axes = figure.axes[0]
    for index, (name, by_mode) in enumerate(found.items()):
        means = [float(values.mean()) for values in by_mode.values()]
        spread = [float(values.std()) for values in by_mode.values()]
        places = np.arange(len(by_mode)) + 0.1 * index
        axes.errorbar(places, means, spread, fmt="o", markersize=4, color=f"C{index}", label=name)
        axes.set_xticks(range(len(by_mode)), [str(mode) for mode in by_mode])
    axes.axhline(0, color="k", linewidth=1, label="eq. 11")
    axes.set(xlabel="mode", ylabel="delay of half-learning / eq. 11")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def critical_figure(
    spectra: Mapping[float, np.ndarray], times: Mapping[int, Mapping[float, float]], most: int
) -> Figure:
    """Draws quantiles of a deep tanh network's Jacobian, and iterations to a loss for each depth, against the gain."""
    figure = new_figure(1, 2, size=(9.2, 3.6))
    left, right = figure.axes
    gains = list(spectra)
    for share, name in ((1.0, "largest"), (0.9, "90 %"), (0.5, "median"), (0.1, "10 %")):
        values = [max(float(np.quantile(s, share)), 1e-12) for s in spectra.values()]
        left.plot(gains, values, "o-", markersize=4, label=name)
    left.axhline(1, color="0.6", linewidth=0.8)
    left.set(xlabel="gain g", ylabel="singular value of the Jacobian", yscale="log", ylim=(1e-10, 1e5))
    for layers, by_gain in times.items():
        right.plot(list(by_gain), list(by_gain.values()), "o-", markersize=4, label=f"{layers} layers")
    right.axhline(most, color="0.6", linewidth=0.8, linestyle="--", label="not reached")
    right.set(xlabel="gain g", ylabel="iterations to a loss of 0.3", yscale="log")
    for axes in figure.axes:
        axes.axvline(1.0, color="0.6", linewidth=0.8, linestyle=":")
        axes.legend(frameon=False, fontsize=8)
    return figure


def depth_figure(
    times: Mapping[str, Mapping[int, float]], rates: Mapping[str, Mapping[int, float]], title: str
) -> Figure:
    """Draws iterations to the threshold and the best rate against depth, for each start."""
    figure = new_figure(1, 2, size=(9.2, 3.6))
    for axes, values, label in (
        (figure.axes[0], times, "iterations to threshold"),
        (figure.axes[1], rates, "best rate"),
    ):
        for index, (name, by_depth) in enumerate(values.items()):
            axes.plot(list(by_depth), list(by_depth.values()), "o-", color=f"C{index}", label=name, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="layers of units N_l", ylabel=label)
        axes.set_xticks(sorted({units for by_depth in values.values() for units in by_depth}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_title(title, fontsize=10)
    return figure


def spectra_figure(spectra: Mapping[str, np.ndarray]) -> Figure:
    """Draws histograms of the singular values of products of random matrices."""
    figure = new_figure(size=(5.6, 3.4))
    axes = figure.axes[0]
    bins = np.linspace(0, 4, 60).tolist()
    for index, (name, values) in enumerate(spectra.items()):
        axes.hist(values, bins=bins, histtype="step", color=f"C{index}", label=name, density=True)
    axes.set(xlabel="singular value", ylabel="density", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    return figure


def edge_figure(gains: Sequence[float], predicted: Sequence[float], measured: Sequence[float]) -> Figure:
    """Draws the variance of a deep tanh network's last layers against its gain."""
    figure = new_figure(size=(4.8, 3.4))
    axes = figure.axes[0]
    axes.plot(gains, predicted, "k", linewidth=1, label="theory")
    axes.plot(gains, measured, "o", markersize=4, label="simulated")
    axes.axvline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="gain g", ylabel="variance q")
    axes.legend(frameon=False, fontsize=8)
    return figure
