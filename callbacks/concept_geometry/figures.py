"""Figures: scores over epochs, R² against the accuracy, and |cos| between concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {
    "r2": "R²",
    "r2_projected": "R², projected",
    "r2_whitened": "R², whitened",
    "accuracy": "accuracy, unseen",
    "cross": "|cos| between",
    "within": "|cos| within",
}
WORDS = {"pre": "before", "post": "after"}


def geometry_figure(rows: Sequence[Mapping[str, Any]], features: str) -> Figure:
    """Draws the looks of a training.

    Args:
        rows: Each with ``epoch`` and, under ``features``, the scores.
        features: ``pre`` or ``post``.
    """
    looks = [(row["epoch"], row[features]) for row in rows if "concepts" in row.get(features, {})]
    compared = any("accuracy" in scores for _, scores in looks)
    figure = new_figure(1, 2 + compared, size=(4.2 * (2 + compared), 3.9))
    axes_of = list(figure.axes)
    first, last = axes_of[0], axes_of[-1]
    for name, label in SCORES.items():
        points = [(epoch, scores[name]) for epoch, scores in looks if name in scores]
        if points:
            first.plot(*zip(*points, strict=True), "o-", markersize=3, label=label)
    first.set(xlabel="epochs", ylim=(-0.02, 1.02), title=f"{WORDS[features]} the projection")
    first.legend(frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    for axes in axes_of[1:-1]:
        known = [(epoch, scores) for epoch, scores in looks if "accuracy" in scores and "r2_whitened" in scores]
        r2, accuracy = ([scores[name] for _, scores in known] for name in ("r2_whitened", "accuracy"))
        axes.plot(r2, accuracy, "-", color="0.8", zorder=1)
        axes.scatter(r2, accuracy, s=22, color="C2", zorder=2)
        for (epoch, _), x, y in zip(known, r2, accuracy, strict=True):
            axes.annotate(f"{epoch}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel="whitened R²", ylabel="accuracy on unseen combinations", title="each look, by epoch")
        axes.margins(0.12)
    if looks:
        epoch, scores = looks[-1]
        matrix = np.array(scores["orthogonality"], dtype=float)
        image = last.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        for (i, j), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                colour = "white" if value < 0.6 else "black"
                last.text(j, i, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7, color=colour)
        names = scores["concepts"]
        last.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        last.set_yticks(range(len(names)), names, fontsize=8)
        last.set_title(f"mean |cos| of factors, epoch {epoch}", fontsize=9)
        figure.colorbar(image, ax=last, shrink=0.8)
    return figure
