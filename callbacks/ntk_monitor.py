"""NTK monitor: how far the empirical tangent kernel of a network moves in training.

Paper: Jacot, Gabriel, Hongler, 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
NeurIPS, arXiv 1806.07572.

``points`` inputs of the first training batch are stored as a probe. Every ``every_n_steps`` and at the end of an epoch
these are logged for Θ, summed over outputs:

- ``ntk/drift``, ‖Θ_t − Θ_0‖_F / ‖Θ_0‖_F, near 0 in the kernel regime, and ``ntk/inflation``, ΣΘ_t / ΣΘ_0;
- ``ntk/lambda1``, …, the largest eigenvalues of Θ/N;
- ``ntk/alignment``, Σ_c y_cᵀ Θ y_c / (‖Θ‖_F ‖y‖²) with the probe's targets (one-hot classes minus their mean).

It works with any module whose ``forward`` takes the batch's input and treats points independently; it does not change
the model, which is in ``eval`` mode while it is measured. Cost: a backward pass for each probe point and output; one
parameter's derivatives at a time in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from torch import Tensor

from framework.figures import new_figure
from framework.functional.ntk import alignment, drift, inflation, tangent_kernel
from framework.observing.probe import ProbeObserver
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drift_figure(points: list[dict[str, float]]) -> Figure:
    """Draws drift, inflation and alignment over steps."""
    figure = new_figure(1, 2)
    left, right = figure.axes
    steps = [point["step"] for point in points]
    for name in ("drift", "inflation"):
        left.plot(steps, [point[name] for point in points], "o-", markersize=3, label=name)
    right.plot(steps, [point["alignment"] for point in points], "o-", markersize=3)
    left.set(xlabel="step")
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel="step", ylabel="alignment with the targets")
    return figure


class NTKMonitor(ProbeObserver):
    """Logs and draws the kernel's drift, largest eigenvalues and alignment.

    Args:
        every_n_steps: Optimiser steps between two measurements.
        points: Largest number of points of the probe.
        eigenvalues: Number of logged eigenvalues.
        chunk: Number of points that are differentiated together.

    Raises:
        UserError: a setting is not accepted; the module has no ``forward``; the first batch is not inputs and targets.
    """

    technique = "ntk_monitor"
    prefix = "ntk"
    kept = ("start",)

    def __init__(self, every_n_steps: int = 50, points: int = 32, eigenvalues: int = 3, chunk: int = 16) -> None:
        at_least(1, every_n_steps=every_n_steps, points=points, eigenvalues=eigenvalues, chunk=chunk)
        super().__init__(every_n_steps, points)
        self.eigenvalues, self.chunk = eigenvalues, chunk
        self.start: Tensor | None = None

    def look(self, module: pl.LightningModule, x: Tensor, y: Tensor) -> dict[str, float]:
        """Measures (see the module's docstring)."""
        kernel = tangent_kernel(module, x, chunk=self.chunk)
        self.start = kernel if self.start is None else self.start
        found = {"drift": drift(kernel, self.start), "inflation": inflation(kernel, self.start)}
        found["alignment"] = alignment(kernel, y)
        values = torch.linalg.eigvalsh(kernel).flip(0)[: self.eigenvalues] / len(kernel)
        found |= {f"lambda{index}": value for index, value in enumerate(values, 1)}
        return {name: float(value) for name, value in found.items()}

    def figure(self) -> Figure:
        """Draws drift, inflation and alignment."""
        return drift_figure(self.points)
