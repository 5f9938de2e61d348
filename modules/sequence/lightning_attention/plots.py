"""Figures of Lightning Attention: time against length, and how long each head remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def time_figure(lengths: list[int], seconds: dict[str, list[float]]) -> Figure:
    """Draws the time of each form against length, on two logarithmic axes, with lines of slope 1 and 2.

    Args:
        lengths: Lengths in tokens.
        seconds: Name of a form to its times; a form may have been stopped at a shorter length.
    """
    figure = new_figure()
    axes = figure.axes[0]
    for index, (name, times) in enumerate(seconds.items()):
        axes.plot(lengths[: len(times)], times, "o-", color=f"C{index}", label=name, markersize=3)
    first = next(iter(seconds.values()))[0]
    for power in (1, 2):
        guide = [0.6 * first * (length / lengths[0]) ** power for length in lengths]
        axes.plot(lengths, guide, ":", color="grey", linewidth=0.8)
        axes.annotate(f"n$^{power}$", (lengths[-1], guide[-1]), fontsize=7, color="grey")
    axes.set(xscale="log", yscale="log", xlabel="length n [tokens]", ylabel="forward pass [CPU seconds]")
    axes.set(title="time against length")
    axes.legend(frameon=False, fontsize=7)
    return figure


def half_life_figure(half_lives: list[list[float]]) -> Figure:
    """Draws after how many tokens each head of each layer has forgotten half.

    Args:
        half_lives: For each layer, one number for each head.
    """
    figure = new_figure()
    axes = figure.axes[0]
    for layer, values in enumerate(half_lives):
        axes.plot(range(1, len(values) + 1), values, "o-", label=f"layer {layer}", markersize=3)
    axes.set(yscale="log", xlabel="head", ylabel="half-life ln 2 / s [tokens]", title="receptive fields")
    axes.legend(frameon=False, fontsize=7)
    return figure


def loss_figure(losses: dict[str, list[float]], every: int) -> Figure:
    """Draws training losses.

    Args:
        losses: Name of a model to its losses, in nats per token.
        every: Steps between two values.
    """
    figure = new_figure()
    axes = figure.axes[0]
    for index, (name, values) in enumerate(losses.items()):
        steps = [every * (i + 1) for i in range(len(values))]
        axes.plot(steps, values, "-" if index % 2 == 0 else "--", color=f"C{index}", label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="training loss [nats per byte]", title="byte-level language models")
    axes.legend(frameon=False, fontsize=7)
    return figure
