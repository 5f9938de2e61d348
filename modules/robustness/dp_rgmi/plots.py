"""Figures over privacy budgets and starts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modules.robustness.dp_rgmi.study import Checkpoint


def _budgets(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Budgets from no privacy to the smallest epsilon."""
    known = {c.privacy: (c.privacy != "none", c.privacy != "clipped", -c.epsilon) for c in checkpoints}
    return sorted(known, key=lambda name: (known[name][:2], known[name][2] if math.isfinite(known[name][2]) else 0))


def _label(privacy: str) -> str:
    return {"none": "no privacy", "clipped": "clipped\nonly"}.get(privacy, f"ε {privacy}")


def _starts(checkpoints: Iterable[Checkpoint]) -> list[str]:
    return sorted({c.start for c in checkpoints})


def budget_figure(checkpoints: Sequence[Checkpoint]) -> Figure:
    """Draws AUROC of network and probe, and the gap, over budgets: a point for each seed, lines through the means."""
    figure = new_figure(columns=2, size=(10.0, 3.8))
    scores, gaps = figure.axes
    budgets = _budgets(checkpoints)
    for number, start in enumerate(_starts(checkpoints)):
        own = {b: [c for c in checkpoints if c.start == start and c.privacy == b] for b in budgets}
        places = [i for i, b in enumerate(budgets) if own[b]]
        colour = f"C{number}"
        for name, style, axes in (("end_to_end", "o-", scores), ("probe", "s--", scores), ("gap", "o-", gaps)):
            means = [float(np.mean([getattr(c, name) for c in own[budgets[i]]])) for i in places]
            text = {"end_to_end": f"{start}, network", "probe": f"{start}, probe", "gap": start}[name]
            axes.plot(places, means, style, color=colour, markersize=4, label=text)
            for i in places:
                values = [getattr(c, name) for c in own[budgets[i]]]
                axes.plot([i] * len(values), values, style[0], color=colour, markersize=2.5, alpha=0.5)
    gaps.axhline(0, color="0.7", lw=0.8)
    for axes, name in ((scores, "macro AUROC"), (gaps, "utilisation gap")):
        axes.set_xticks(range(len(budgets)), [_label(b) for b in budgets], fontsize=8)
        axes.set_ylabel(name)
        axes.legend(frameon=False, fontsize=7)
    return figure


def geometry_figure(checkpoints: Sequence[Checkpoint]) -> Figure:
    """Draws effective dimension over displacement; colours are budgets, markers starts."""
    figure = new_figure(size=(5.6, 4.0))
    axes = figure.axes[0]
    budgets, starts = _budgets(checkpoints), _starts(checkpoints)
    for c in checkpoints:
        marker = "os^Dv"[starts.index(c.start) % 5]
        axes.plot(c.displacement, c.effective_dimension, marker, color=f"C{budgets.index(c.privacy)}", markersize=6)
    for number, budget in enumerate(budgets):
        axes.plot([], [], "o", color=f"C{number}", label=_label(budget).replace("\n", " "))
    for number, start in enumerate(starts):
        axes.plot([], [], "os^Dv"[number % 5], color="0.4", label=start)
    axes.set(xlabel="displacement", ylabel="effective dimension")
    axes.legend(frameon=False, fontsize=7)
    return figure


def spectra_figure(checkpoints: Sequence[Checkpoint]) -> Figure:
    """Draws the spectra of the first seed of each budget, a panel for each start."""
    starts, budgets = _starts(checkpoints), _budgets(checkpoints)
    figure = new_figure(columns=len(starts), size=(4.2 * len(starts), 3.4))
    for axes, start in zip(figure.axes, starts, strict=True):
        for number, budget in enumerate(budgets):
            own = [c for c in checkpoints if c.start == start and c.privacy == budget and c.spectrum]
            if not own:
                continue
            values = np.array(min(own, key=lambda c: c.seed).spectrum)
            shares = values / max(values.sum(), 1e-300)
            seen = shares > 1e-7
            ranks = np.arange(1, len(values) + 1)[seen]
            axes.plot(ranks, shares[seen], color=f"C{number}", label=_label(budget).replace("\n", " "))
        axes.set(xlabel="rank", ylabel="share of the variance", yscale="log", title=start)
        axes.legend(frameon=False, fontsize=7)
    return figure


def association_figure(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> Figure:
    """Draws the rank correlations of all pairs of numbers over checkpoints."""
    from scipy.stats import rankdata

    numbers = np.array([[getattr(c, name) for c in checkpoints] for name in names])
    numbers = numbers[:, np.isfinite(numbers).all(0)]  # without trainings that diverged
    ranks = rankdata(numbers, axis=1)
    ranks = ranks - (numbers.shape[1] + 1) / 2
    norms = np.sqrt((ranks**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        values = ranks @ ranks.T / (norms[:, None] * norms)
    figure = new_figure(size=(5.4, 4.4))
    axes = figure.axes[0]
    image = axes.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(image, ax=axes, label=f"Spearman over {numbers.shape[1]} checkpoints")
    texts = [name.replace("_", " ") for name in names]
    axes.set_xticks(range(len(names)), texts, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), texts, fontsize=8)
    for row, column in np.ndindex(values.shape):
        dark = abs(values[row, column]) > 0.6
        shown = f"{values[row, column]:.2f}"
        axes.text(column, row, shown, ha="center", va="center", color="white" if dark else "black", fontsize=8)
    return figure
