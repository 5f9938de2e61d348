"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {
    "kernel_alignment": "kernel alignment",
    "representation_alignment": "representation alignment",
    "weight_change": "|W_h − W_h(0)|",
}


def laziness_figure(*tables: Mapping[str, np.ndarray], titles: tuple[str, ...] = ("",)) -> Figure:
    """Draws the three measures against the start, a row a table (see ``final``), a point a seed; g by colour."""
    figure = new_figure(len(tables), 3, size=(10.5, 3.2 * len(tables)))
    for row, (table, title) in enumerate(zip(tables, titles, strict=True)):
        names = list(dict.fromkeys(table["start"].tolist()))
        scales = sorted(set(table["g"].tolist()))
        for axes, (measure, label) in zip(figure.axes[3 * row : 3 * row + 3], MEASURES.items(), strict=True):
            for index, g in enumerate(scales):
                for seed in sorted(set(table["seed"].tolist())):
                    mine = (table["g"] == g) & (table["seed"] == seed)
                    places = [names.index(name) for name in table["start"][mine]]
                    shift = 0.12 * (index - (len(scales) - 1) / 2)
                    axes.plot(np.array(places) + shift, table[measure][mine], "o", markersize=4.5, color=f"C{index}")
                if len(scales) > 1 and measure == "kernel_alignment":
                    axes.plot([], [], "o", color=f"C{index}", markersize=4.5, label=f"g = {g:g}")
            turned: dict[str, Any] = {"rotation": 20, "ha": "right"} if len(names) > 4 else {}
            axes.set_xticks(range(len(names)), names, fontsize=8, **turned)
            axes.set(ylabel=label, title=title if measure == "representation_alignment" else "")
            axes.set_xlim(-0.5, len(names) - 0.5)
            if measure != "weight_change":
                axes.set_ylim(min(0.0, float(table[measure].min())), 1.03)
        if len(scales) > 1:
            figure.axes[3 * row].legend(frameon=False, fontsize=8)
    return figure


def spectra_figure(matrices: Mapping[str, np.ndarray]) -> Figure:
    """Draws singular values of each start, and its eigenvalues in the complex plane."""
    figure = new_figure(1, 2, size=(9.6, 3.8))
    left, right = figure.axes
    for index, (name, matrix) in enumerate(matrices.items()):
        values = np.linalg.svd(matrix, compute_uv=False)
        values = values[values > 1e-5 * values[0]]  # smaller ones are rounding errors
        style: dict[str, Any] = {
            "markersize": 3.5,
            "color": f"C{index}",
            "zorder": 3 - 0.1 * index,
        }  # the fewest on top
        left.plot(np.arange(1, len(values) + 1), values, "o", **style, label=name)
        found = np.linalg.eigvals(matrix)
        right.plot(found.real, found.imag, "o", **style)
    left.set(
        xscale="log", yscale="log", xlabel="index", ylabel="singular value", title="recurrent weights at the start"
    )
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel="Re λ", ylabel="Im λ", title="eigenvalues", aspect="equal")
    return figure


def theory_figure(
    predicted: Mapping[int, Mapping[int, float]], measured: Mapping[int, Mapping[int, tuple[float, float]]]
) -> Figure:
    """E[KA] of two linear layers over the initial rank: a line for each d, points with two standard errors."""
    figure = new_figure(size=(5.2, 3.6))
    axes = figure.axes[0]
    for index, (d, line) in enumerate(predicted.items()):
        ranks, values = zip(*sorted(line.items()), strict=True)
        axes.plot(ranks, values, color=f"C{index}", linewidth=1, label=f"theory, d = {d}")
        points = sorted(measured[d].items())
        means, errors = zip(*(value for _, value in points), strict=True)
        axes.errorbar(
            [r for r, _ in points], means, 2 * np.array(errors), fmt="o", color=f"C{index}", markersize=4, capsize=2
        )
    axes.set(xlabel="rank of W₁ at the start", ylabel="kernel alignment, mean over tasks")
    axes.legend(frameon=False, fontsize=8)
    return figure
