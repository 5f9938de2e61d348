"""Pictures of a recovered support, and of scores over training (Diverse Dictionary Learning, arXiv 2604.17568)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {
    "mcc": ("MCC", "C0", "o-"),
    "support_f1": ("F1 of the support", "C1", "o-"),
    "support_f1_all_ones": ("F1 of all ones", "C1", ":"),
}


def show_dependencies(axes: Axes, matrix: np.ndarray, title: str) -> None:
    """Draws a matrix of observations by latents, white where there is no dependency.

    Args:
        axes: Where.
        matrix: (D, d), from 0.
        title: Above it.
    """
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=float(matrix.max(initial=0.0)) or 1, aspect="auto")
    rows, columns = matrix.shape
    for axis, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(np.arange(0, count, max(1, -(-count // 10))))
    axes.set(xlabel="latent", ylabel="observation", title=title)


def identifiability_figure(
    support: np.ndarray | None, strength: np.ndarray | None, curve: Sequence[Mapping[str, float]]
) -> Figure:
    """Draws the true support, the estimated dependencies and the scores over training; what is not known is left out.

    Args:
        support: (D, d).
        strength: Mean |J_ij|, (D, d), columns in the order of the true latents.
        curve: ``step`` and scores of each measurement.
    """
    pictures = []
    if support is not None:
        pictures.append((support.astype(float), "true support"))
    if strength is not None:
        pictures.append((strength, "estimate: mean |J|"))
    lines = {name: style for name, style in LINES.items() if any(name in row for row in curve)} or {
        "active_units": ("active units", "C2", "o-")
    }
    figure = new_figure(columns=len(pictures) + 1, size=(3.2 * len(pictures) + 4.4, 3.2))
    for axes, (matrix, title) in zip(figure.axes, pictures, strict=False):
        show_dependencies(axes, matrix, title)
        if title.startswith("estimate"):
            figure.colorbar(axes.images[0], ax=axes, fraction=0.05)
    axes, counted = figure.axes[len(pictures)], "active_units" in lines
    for name, (label, colour, style) in lines.items():
        rows = [row for row in curve if name in row]
        values = [row[name] for row in rows]
        axes.plot([row["step"] for row in rows], values, style, color=colour, label=label, markersize=3)
    top = max((row["active_units"] for row in curve), default=1) + 0.5 if counted else 1.03
    axes.set(xlabel="optimiser step", ylabel="latents" if counted else "score", title="training", ylim=(0, top))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
