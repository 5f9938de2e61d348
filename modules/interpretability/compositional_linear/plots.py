"""Figures: encoders by R² and accuracy, free embeddings over dimensions, minimum dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def survey_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws encoders: accuracy on unseen combinations, and |cos|, over whitened R².

    Args:
        rows: Each with ``encoder``, ``features``, ``r2_whitened``, ``accuracy``, ``cross`` and ``within``.
    """
    figure = new_figure(1, 2, size=(9.4, 4.0))
    left, right = figure.axes
    middle = float(np.mean([max(row["r2_whitened"] for row in rows), min(row["r2_whitened"] for row in rows)]))
    for i, row in enumerate(rows):
        inwards = row["r2_whitened"] > middle
        left.scatter(row["r2_whitened"], row["accuracy"], s=32, color=f"C{i % 10}", zorder=2)
        left.annotate(
            f"{row['encoder'].rpartition('/')[2]} ({row['features']})",  # of a path its last part
            (row["r2_whitened"], row["accuracy"]),
            xytext=(-7 if inwards else 7, 0),
            textcoords="offset points",
            ha="right" if inwards else "left",
            va="center",
            fontsize=7,
        )
        for name, marker in (("cross", "o"), ("within", "^")):
            right.scatter(row["r2_whitened"], row[name], s=28, color=f"C{i % 10}", marker=marker)
    left.set(xlabel="whitened R²", ylabel="accuracy on unseen combinations", title="probes on few combinations")
    left.margins(0.14, 0.12)
    right.set(
        xlabel="whitened R²", ylabel="mean |cos| of factors", ylim=(0, 1), title="circles: between, triangles: within"
    )
    right.margins(0.14)
    return figure


def free_figure(trajectory: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draws accuracy and geometry of free embeddings over d, mean and range over seeds.

    Args:
        trajectory: ``dim`` (E,), and measurements (R, E) whose last row is drawn.
        title: Loss and space.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(1, 2, size=(8.4, 3.4))
    dims = np.unique(trajectory["dim"])
    labels = {"worst": "accuracy, worst concept", "r2": "R²", "cross": "|cos| between", "within": "|cos| within"}
    for axes, names in zip(figure.axes, (("worst", "r2"), ("cross", "within")), strict=True):
        for name in names:
            last = trajectory[name][-1]
            groups = [last[(trajectory["dim"] == d) & ~np.isnan(last)] for d in dims]
            known = [(d, group) for d, group in zip(dims, groups, strict=True) if len(group)]
            if known:
                means = [group.mean() for _, group in known]
                axes.plot([d for d, _ in known], means, "o-", markersize=3, label=labels[name])
                low, high = zip(*((group.min(), group.max()) for _, group in known), strict=True)
                axes.fill_between([d for d, _ in known], low, high, alpha=0.2)
        axes.set(xlabel="dimensions d", ylim=(-0.02, 1.02), title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
    return figure


def dimensions_figure(curves: Mapping[str, Sequence[tuple[int, float]]], reached: float) -> Figure:
    """Draws the best seed's least accuracy of a concept over d, one line for each label.

    Args:
        curves: Label to (d, accuracy).
        reached: Accuracy from which a dimension is enough.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    for number, (label, points) in enumerate(curves.items()):
        style = "o-" if label.startswith("ce") else "s--"
        axes.plot(*zip(*points, strict=True), style, markersize=4, color=f"C{number // 2}", label=label)
    axes.axhline(reached, color="0.7", linewidth=0.8)
    axes.set(xlabel="dimensions d", ylabel="accuracy of the worst concept", ylim=(-0.02, 1.04))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return figure
