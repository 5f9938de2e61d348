"""Figures of expansion: accuracy and storage by depth, and layers along their first principal component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from framework.figures import new_figure
from framework.functional.learngene import stacked_blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")


def first_component(stack: Tensor) -> tuple[Tensor, float]:
    """Coordinates of the layers of one tensor on their first principal component.

    Args:
        stack: ``(L, …)``, L at least 2.

    Returns:
        ``(L,)``, with the sign for which the last is above the first, and the component's share of the variance.
    """
    rows = stack.double().flatten(1)
    u, s, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    coordinate = u[:, 0] * s[0]
    sign = -1.0 if coordinate[-1] < coordinate[0] else 1.0
    return sign * coordinate, float(s[0].square() / s.square().sum().clamp(min=1e-300))


def layers_figure(states: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Draws first principal component of each kind of weight over layers, and the line of least squares through it.

    Args:
        states: State dicts of transformers of two layers and more, by label.
    """
    figure = new_figure(1, len(KINDS), size=(3.3 * len(KINDS), 3.4))
    for axes, kind in zip(figure.axes, KINDS, strict=True):
        for number, (label, state) in enumerate(states.items()):
            coordinate, share = first_component(stacked_blocks(state)[0][kind])
            at = torch.arange(len(coordinate), dtype=torch.float64) / len(coordinate)
            slope = ((at - at.mean()) @ coordinate) / (at - at.mean()).square().sum()
            colour = f"C{number}"
            axes.plot(at, slope * (at - at.mean()), "-", color=colour, linewidth=1.0, alpha=0.7)
            axes.plot(at, coordinate, "o", color=colour, markersize=4, label=f"{label} ({100 * share:.0f} %)")
        axes.set(title=kind.removesuffix(".weight"), xlabel="layer i/L")
        axes.margins(y=0.3)
        axes.legend(frameon=False, fontsize=7, loc="upper left", title="share of variance", title_fontsize=7)
    figure.axes[0].set_ylabel("first principal component")
    return figure


def depths_figure(scores: Mapping[int, float], trained: int, storage: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws accuracy of the expansion by depth, and the numbers stored for all models up to each depth.

    Args:
        scores: Accuracy by depth, from 0 to 1.
        trained: The depth at which the learngene was trained.
        storage: Rows of :func:`~modules.finetuning.tleg.tables.storage_rows`.
    """
    figure = new_figure(1, 2)
    accuracy, stored = figure.axes
    depths = sorted(scores)
    accuracy.plot(depths, [100 * scores[depth] for depth in depths], "o-", color="C0", linewidth=1.2, markersize=5)
    accuracy.axvline(trained, color="0.6", linewidth=0.8, linestyle=":")
    accuracy.set(xlabel="depth expanded to (dotted: trained)", ylabel="accuracy before any training [%]")
    number = range(1, len(storage) + 1)
    stored.plot(
        number, [row["models"] / 1e6 for row in storage], "s-", color="C1", markersize=5, label="a model for each depth"
    )
    stored.plot(
        number, [row["learngene"] / 1e6 for row in storage], "o-", color="C0", markersize=5, label="one learngene"
    )
    stored.set_xticks([*number], [str(row["depth"]) for row in storage])
    stored.set(xlabel="depths so far", ylabel="millions of numbers stored", ylim=(0, None))
    stored.legend(frameon=False, fontsize=8)
    return figure
