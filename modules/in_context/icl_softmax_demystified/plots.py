"""Figures: lines for predictions, points for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from framework.figures import new_figure
from modules.in_context.plots import draw_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heads_figure(found: Mapping[str, np.ndarray], heads: int, member: int = 0) -> Figure:
    """Draws ω and μ of each head of one member, over steps."""
    figure = new_figure(1, 2)
    for axes, name, label in zip(
        figure.axes, ("omega", "mu"), ("ω, mean diagonal of KQ", "μ, last of OV"), strict=True
    ):
        for head in range(1, heads + 1):
            axes.plot(found["step"], found[f"{name}/{head}"][:, member], ".-", markersize=3, label=f"head {head}")
        axes.axhline(0.0, color="0.6", linewidth=0.8)
        axes.set(xlabel="steps", ylabel=label)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def circuits_figure(kq: np.ndarray, ov: np.ndarray) -> Figure:
    """Draws heat maps of KQ_h (H, D, D) above OV_h (H, T, D), one column for each head."""
    heads = len(kq)
    figure = new_figure(2, heads, size=(2.8 * heads, 4.2))
    for head in range(heads):
        draw_matrix(figure.axes[head], kq[head], f"KQ, head {head + 1}")
        draw_matrix(figure.axes[heads + head], ov[head], f"OV, head {head + 1}")
    return figure


def attention_figure(attention: np.ndarray, products: np.ndarray) -> Figure:
    """Draws what each head attends to in one prompt, (N, H), against ⟨x_i, x_q⟩ (N,)."""
    figure = new_figure(size=(5.0, 3.6))
    axes = figure.axes[0]
    for head in range(attention.shape[1]):
        axes.plot(products, attention[:, head], "o", markersize=3.5, alpha=0.7, label=f"head {head + 1}")
    axes.axhline(1 / len(attention), color="0.6", linewidth=0.8)
    axes.set(xlabel="⟨x_i, x_q⟩", ylabel="attention")
    axes.legend(frameon=False, fontsize=8)
    return figure


def drift_figure(time: np.ndarray, omega: np.ndarray, mu: np.ndarray, loss: np.ndarray, floor: float) -> Figure:
    """Draws two heads in mean field: ω, μ and the loss above its infimum over time."""
    figure = new_figure(1, 2)
    left, right = figure.axes
    left.plot(time, np.abs(omega).max(1), "C0", label="|ω|")
    left.plot(time, np.abs(mu).max(1), "C1", label="|μ|")
    left.set(xlabel="time", xscale="log", yscale="log")
    left.legend(frameon=False, fontsize=8)
    right.plot(time, loss - floor, "k")
    right.set(xlabel="time", ylabel="loss above its infimum", xscale="log", yscale="log")
    return figure
