"""Figures of clusters and of their subspaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure
from modules.representation.manifold_clustering.scores import numerical_rank

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

COLUMNS, ROWS = 12, 24


def montage_figure(x: Tensor, clusters: np.ndarray, share: np.ndarray) -> Figure:
    """Draws a row of images for each cluster, those with the largest share first.

    Args:
        x: Images (n, C, H, W) in any range, which is stretched from black to white.
        clusters: Cluster of each (n,).
        share: Share of the membership of each (n,).
    """
    pixels = x.float().numpy().transpose(0, 2, 3, 1)
    low, high = float(pixels.min()), float(pixels.max())
    pixels = (pixels - low) / max(high - low, 1e-12)
    pixels = np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels[..., :3]
    names = np.unique(clusters)[:ROWS]
    side = pixels.shape[1]
    canvas = np.ones((len(names) * (side + 1) - 1, COLUMNS * (side + 1) - 1, 3))
    for row, name in enumerate(names):
        own = np.flatnonzero(clusters == name)
        for column, i in enumerate(own[np.argsort(-share[own], kind="stable")][:COLUMNS]):
            top, left = row * (side + 1), column * (side + 1)
            canvas[top : top + side, left : left + side] = pixels[i]
    figure = new_figure(size=(6.5, 0.4 + 0.52 * len(names)))
    (axes,) = figure.axes
    axes.imshow(canvas, interpolation="nearest")
    sizes = np.bincount(clusters)
    places = np.arange(len(names)) * (side + 1) + side / 2
    axes.set_yticks(places, [f"cluster {name}\n{sizes[name]} images" for name in names], fontsize=7)
    axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def curves_figure(curve: Sequence[Mapping[str, float]]) -> Figure:
    """Draws rates, perplexity with numbers of clusters, and scores where there are labels, over the epochs.

    Args:
        curve: ``epoch`` and what is logged at each validation.
    """
    scored = "accuracy" in curve[-1]
    figure = new_figure(1, 2 + scored, size=(4.2 * (2 + scored), 3.6))
    left, middle, *right = figure.axes
    epochs = [row["epoch"] for row in curve]

    def line(axes, name: str, label: str, style: str = "-") -> None:
        axes.plot(epochs, [row[name] for row in curve], style, label=label)

    line(left, "R", "R")
    line(left, "R_c", "R_c of Γ")
    line(left, "R_c_clusters", "R_c of the clusters", "--")
    left.plot(epochs, [row["R"] - row["R_c"] for row in curve], ":", label="R − R_c")
    left.set(xlabel="epoch", ylabel="nats")
    line(middle, "perplexity", "perplexity of Γ's rows")
    line(middle, "smallest_cluster", "points of the smallest cluster")
    line(middle, "live_clusters", "live clusters", "--")
    middle.set(xlabel="epoch", yscale="log")
    for axes in right:
        for name in ("accuracy", "nmi", "ari"):
            line(axes, name, {"accuracy": "accuracy", "nmi": "NMI", "ari": "ARI"}[name])
        axes.set(xlabel="epoch", ylim=(0, 1.02))
    for axes in figure.axes:
        axes.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def geometry_figure(
    z: np.ndarray, groups: np.ndarray, gaps: Mapping[int, float], name: str = "group", most: int = 600
) -> Figure:
    """Draws |z_iᵀ z_j| in the order of the groups, the rank of each group, and the gaps that score numbers of clusters.

    Args:
        z: Features (n, d).
        groups: Class or cluster of each (n,).
        gaps: By number of clusters, the gap of eigenvalues.
        name: What a group is.
        most: Largest number of points in the map.
    """
    figure = new_figure(1, 3, size=(12, 3.4))
    left, middle, right = figure.axes
    rows = np.arange(len(z))[:: max(1, len(z) // most)]
    rows = rows[np.argsort(groups[rows], kind="stable")]
    image = left.imshow(np.abs(z[rows] @ z[rows].T), vmin=0, vmax=1, cmap="magma", interpolation="nearest")
    figure.colorbar(image, ax=left, label="|z_iᵀ z_j|")
    left.set(xticks=[], yticks=[], xlabel=f"examples, by {name}")
    names = np.unique(groups)
    middle.bar(range(len(names)), [numerical_rank(z[groups == group]) for group in names])
    if len(names) <= 20:
        middle.set_xticks(range(len(names)), [str(group) for group in names])
    middle.axhline(numerical_rank(z), color="C1", linestyle="--", label="all features")
    middle.set(xlabel=name, ylabel="numerical rank")
    middle.legend(frameon=False, fontsize=8)
    if gaps:
        right.bar(list(gaps), list(gaps.values()), color="C2")
    right.set(xlabel="number of clusters k", ylabel="λ_k − λ_{k+1}")
    return figure


def arms_figure(scores: Mapping[str, Sequence[float]], curve: Sequence[Mapping[str, float]], copied: int) -> Figure:
    """Draws the accuracy of each arm with its seeds, and accuracy and ranks over the epochs of one run.

    Args:
        scores: Accuracy of each seed by arm.
        curve: ``epoch``, ``accuracy``, ``rank`` and ``class_rank`` at each validation.
        copied: Epoch before which the head was copied.
    """
    figure = new_figure(1, 2, size=(11, 4.2))
    left, right = figure.axes
    for place, values in enumerate(reversed(list(scores.values()))):
        left.plot(values, [place] * len(values), "o", color="C0", markersize=4, alpha=0.7)
        left.plot([float(np.mean(values))] * 2, [place - 0.25, place + 0.25], color="C0")
    left.set_yticks(range(len(scores)), list(scores)[::-1], fontsize=8)
    left.set(xlabel="accuracy", xlim=(0, 1.02))
    left.grid(axis="x", alpha=0.3)
    epochs = [row["epoch"] for row in curve]
    right.plot(epochs, [row["class_rank"] for row in curve], "o-", markersize=3, label="mean rank of a class")
    right.plot(epochs, [row["rank"] for row in curve], "s-", markersize=3, label="rank of all features")
    right.axvline(copied, color="0.6", linestyle=":", label="head copied")
    right.set(xlabel="epoch", ylabel="numerical rank", ylim=(0, None))
    right.legend(frameon=False, fontsize=8, loc="center left")
    return figure
