"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from framework.figures import new_figure
from modules.in_context.plots import draw_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_HEADS = 4


def weights_figure(value: np.ndarray, key_query: np.ndarray, guess: np.ndarray | None, mean: np.ndarray) -> Figure:
    """Draws heat maps of p_h and W^KQ_h for the first heads of one member, and the learnt guesses against w*.

    Args:
        value: p (H, d + 1).
        key_query: W^KQ (H, d + 1, d + 1).
        guess: v (E, d), or None.
        mean: w* (d,).
    """
    heads = min(len(value), SHOWN_HEADS)
    count = heads + (guess is not None)
    figure = new_figure(1, count, size=(3.4 * count, 3.0))
    for head, axes in enumerate(figure.axes[:heads]):
        draw_matrix(axes, np.concatenate([value[head][:, None], key_query[head]], 1), f"p | W^KQ, head {head + 1}")
        axes.axvline(0.5, color="k", linewidth=1)
    if guess is not None:
        axes = figure.axes[heads]
        edge = max(float(np.abs(mean).max()), float(np.abs(guess).max()), 1e-3) * 1.1
        axes.plot([-edge, edge], [-edge, edge], "k", linewidth=0.8)
        axes.plot(np.broadcast_to(mean, guess.shape).ravel(), guess.ravel(), "o", markersize=4, alpha=0.6)
        axes.set(xlabel="w*", ylabel="learnt v")
    return figure


def means_figure(
    means: Sequence[float],
    lines: Mapping[str, np.ndarray],
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> Figure:
    """Draws error against |w*|: closed forms as lines, trained models as points.

    Args:
        means: |w*| (R,) of the lines.
        lines: Label to (R,).
        points: Label to |w*| and errors.
    """
    figure = new_figure(size=(5.4, 3.8))
    axes = figure.axes[0]
    for style, (label, value) in zip(("k-", "k--"), lines.items(), strict=False):
        axes.plot(means, value, style, linewidth=1, label=label)
    for index, (label, (at, errors)) in enumerate(points.items()):
        axes.plot(at, errors, "o", markersize=5, color=f"C{index}", label=label)
    axes.set(xlabel="|w*|", ylabel="mean squared error")
    axes.legend(frameon=False, fontsize=8)
    return figure


def heads_figure(heads: Sequence[int], risks: Sequence[float], bound: float, gradient: float) -> Figure:
    """Draws error against the number of heads (points), R_MH and R_GD* (lines)."""
    figure = new_figure(size=(5.0, 3.6))
    axes = figure.axes[0]
    axes.plot(heads, risks, "o", markersize=5, color="C0", label="trained, no guess")
    axes.axhline(bound, color="k", linewidth=1, label="best of any number of heads")
    axes.axhline(gradient, color="k", linewidth=1, linestyle="--", label="gradient step from w*")
    axes.set(xlabel="heads", ylabel="mean squared error", xticks=list(heads))
    axes.legend(frameon=False, fontsize=8)
    return figure


def guesses_figure(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws a language model's answers against the scores, one panel for each kind of guess.

    Args:
        found: Kind to ``answer`` and ``score`` (n,).
    """
    figure = new_figure(1, max(1, len(found)), size=(3.4 * max(1, len(found)), 3.2))
    for axes, (name, values) in zip(figure.axes, found.items(), strict=False):
        axes.plot([0, 5], [0, 5], "k", linewidth=0.8)
        axes.plot(values["score"].cpu(), values["answer"].cpu(), "o", markersize=3, alpha=0.5)
        axes.set(xlabel="score", ylabel="answer", title=f"guess: {name}")
    return figure
