"""Figures of LP-FT: the head's norm, how far features move, the spectra of F, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_figure(norms: Mapping[str, np.ndarray], moves: Mapping[str, np.ndarray]) -> Figure:
    """Draws ‖V‖ and mean ‖φ − φ₀‖ over epochs: thin lines for seeds, thick lines for means.

    Args:
        norms: By name (seeds, epochs + 1).
        moves: The same.
    """
    figure = new_figure(1, 2)
    for axes, curves, label in zip(figure.axes, (norms, moves), ("‖V‖", "mean ‖φ − φ₀‖"), strict=True):
        for number, (name, values) in enumerate(curves.items()):
            axes.plot(values.T, color=f"C{number}", alpha=0.25, linewidth=0.8)
            axes.plot(values.mean(0), "o-", color=f"C{number}", markersize=3, label=name)
        axes.set(xlabel="epochs", ylabel=label)
    figure.axes[0].set_yscale("log")
    figure.axes[1].legend(frameon=False, fontsize=8)
    return figure


def scale_figure(scales: Sequence[float], moves: Mapping[str, np.ndarray]) -> Figure:
    """Draws mean ‖φ − φ₀‖ after training against the head's scale, a line for each seed.

    Args:
        scales: Factors on V.
        moves: By seed (scales,).
    """
    figure = new_figure()
    axes = figure.axes[0]
    for name, values in moves.items():
        axes.plot(scales, values, "o-", markersize=4, label=name)
    axes.set(xscale="log", xlabel="head scale", ylabel="mean ‖φ − φ₀‖")
    axes.legend(frameon=False, fontsize=8)
    return figure


def spectra_figure(spectra: Mapping[str, Tensor], ranks: Mapping[str, float]) -> Figure:
    """Draws singular values of F, and marks the rank."""
    figure = new_figure()
    axes = figure.axes[0]
    for number, (name, values) in enumerate(spectra.items()):
        axes.semilogy(range(1, len(values) + 1), values.clamp(min=1e-14), color=f"C{number}", label=name)
        axes.axvline(ranks[name], color=f"C{number}", linestyle="--", linewidth=0.8)
    axes.set(xlabel="index (dashed: the rank)", ylabel="singular value of F")
    axes.legend(frameon=False, fontsize=8)
    return figure


def calibration_figure(errors: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draws expected calibration error on the test part before and after temperature scaling, a line for each seed."""
    figure = new_figure()
    axes = figure.axes[0]
    for number, (name, (before, after)) in enumerate(errors.items()):
        for pair in zip(before, after, strict=True):
            axes.plot([2 * number, 2 * number + 1], pair, "o-", color=f"C{number}", markersize=4, alpha=0.7)
        axes.plot([], [], "o-", color=f"C{number}", label=name)
    axes.set_xticks(range(2 * len(errors)), ["T = 1", "scaled"] * len(errors))
    axes.set(ylabel="expected calibration error", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return figure
