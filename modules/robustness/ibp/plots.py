"""Figures of certified training (Mao et al. 2024, arXiv 2306.10426)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tightness_panels(
    eps: Mapping[str, Sequence[tuple[float, float]]],
    width: Sequence[tuple[int, float, float]],
    methods: Mapping[str, tuple[float, float, float]],
) -> Figure:
    """Draws tightness over eps, tightness and certified accuracy over width, and natural against certified accuracy.

    Args:
        eps: (eps, tightness) by method.
        width: (width, tightness, certified accuracy).
        methods: (natural accuracy, certified accuracy, tightness) by method.
    """
    figure = new_figure(1, 3, size=(11, 3.4))
    left, middle, right = figure.axes
    for name, points in eps.items():
        left.plot(*zip(*points, strict=True), "o-", markersize=4, label=name)
    left.set(xlabel="eps in training", ylabel="local tightness", xscale="log", ylim=(0, 1.02))
    left.legend(frameon=False, fontsize=8)
    widths = [w for w, _, _ in width]
    middle.plot(widths, [t for _, t, _ in width], "o-", markersize=4, label="local tightness")
    middle.plot(widths, [c for _, _, c in width], "s--", markersize=4, label="certified accuracy")
    middle.set(xlabel="width of the hidden layers", xscale="log", ylim=(0, 1.02))
    middle.set_xticks(widths, [str(w) for w in widths])
    middle.minorticks_off()
    middle.legend(frameon=False, fontsize=8)
    for name, (natural, proven, tight) in methods.items():
        right.scatter(natural, proven, s=40, label=f"{name} (tightness {tight:.2f})")
    right.set(xlabel="accuracy", ylabel="certified accuracy", ylim=(-0.05, 1.02))
    right.legend(frameon=False, fontsize=8)
    return figure
