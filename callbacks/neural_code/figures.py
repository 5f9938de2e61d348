"""The figure of a run: redundancy ratios and accuracies over epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"kmeans": "K-means, purity", "knn": "9 nearest neighbours", "logistic": "logistic regression"}


def code_figure(rows: list[dict[str, Any]], parts: list[str], under: float, sufficient: float) -> Figure:
    """Draws the redundancy ratio of each part over epochs, and the accuracies of codes where they were measured.

    Args:
        rows: Measurements, with ``epoch`` and names without their prefix.
        parts: The parts.
        under: Threshold of the under-expressive regime.
        sufficient: Threshold of the sufficiently expressive one.
    """
    figure = new_figure(1, 2, size=(9.5, 3.6))
    left, right = figure.axes
    epochs = [row["epoch"] for row in rows]
    for part in parts:
        label = f"{part}, n = {rows[-1][f'{part}/examples']:.0f}"
        left.plot(epochs, [row[f"{part}/redundancy_ratio"] for row in rows], "o-", markersize=3, label=label)
    for level, text in ((under, "under-expressive above"), (sufficient, "sufficiently expressive below")):
        left.axhline(level, color="0.5", linewidth=0.8, linestyle="--")
        left.annotate(
            text, (0.98, level), xycoords=("axes fraction", "data"), fontsize=7, color="0.4", ha="right", va="bottom"
        )
    left.set(xlabel="epochs", ylabel="redundancy ratio", ylim=(-0.02, 1.02))
    left.legend(frameon=False, fontsize=8)
    for index, (name, text) in enumerate(NAMES.items()):
        for part, style in zip(parts, ("--", "-", ":"), strict=False):
            points = [(row["epoch"], row[f"{part}/{name}"]) for row in rows if f"{part}/{name}" in row]
            if points:
                label = f"{text} ({part})"
                right.plot(*zip(*points, strict=True), f"o{style}", markersize=4, color=f"C{index + 2}", label=label)
    right.set(xlabel="epochs", ylabel="accuracy of codes", ylim=(0, 1.02))
    if right.get_lines():
        right.legend(frameon=False, fontsize=7, loc="lower left")
        right.set_xlim(left.get_xlim())
    else:
        figure.delaxes(right)
    return figure
