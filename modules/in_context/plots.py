"""Figures that the experiments share: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"least_squares": "least squares", "bayes": "Bayes", "ridge": "ridge"}


def lengths_figure(table: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Draws the error at the query against the number of examples: members as points, theory and closed forms as lines.

    Args:
        table: ``length`` (L,), ``risk`` (L, E), ``theory`` (L,), and closed-form predictors (L,).
        title: Title above the axes.
    """
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    lengths = table["length"]
    if np.isfinite(table["theory"]).any():
        axes.plot(lengths, table["theory"], "k", linewidth=1, label="theory")
    others = [name for name in table if name not in ("length", "risk", "se", "theory")]
    for index, name in enumerate(others, 1):
        shown = np.where(table[name] > 1e-6, table[name], np.nan)  # exact predictors cannot be shown on a log scale
        if np.isfinite(shown).sum() > 1:
            label = LABELS.get(name, name.replace("_", " "))
            axes.plot(lengths, shown, "--", linewidth=1, color=f"C{index}", label=label)
    axes.plot(lengths, table["risk"], "o", markersize=4, color="C0", alpha=0.7)
    axes.plot([], [], "o", markersize=4, color="C0", label="trained")
    axes.set(xscale="log", yscale="log", xlabel="examples in the prompt", ylabel="mean squared error", title=title)
    axes.set_xticks(lengths)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_matrix(axes: Axes, matrix: np.ndarray, title: str) -> None:
    """Draws a heat map with its own scale, symmetric about zero, and a colour bar."""
    top = float(np.abs(matrix).max()) or 1.0
    shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.figure.colorbar(shown, ax=axes, shrink=0.8)
