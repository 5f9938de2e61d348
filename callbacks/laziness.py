"""Laziness: how much the weights, the representation and the tangent kernel of any network change in training.

Paper: Liu, Baratin, Cornford, Mihalas, Shea-Brown, Lajoie, 2024, "How Connectivity Structure Shapes Rich and Lazy
Learning in Neural Circuits", ICLR, arXiv 2310.08513.

``points`` inputs of the first training batch are stored as a probe. Logged every ``every_n_steps`` and at the end of an
epoch:

- ``laziness/weight_change``, ‖W − W_0‖ over the chosen parameters, and ``laziness/relative_change``, the same divided
  by ‖W_0‖;
- ``laziness/representation_alignment``, ⟨R, R_0⟩ / (‖R‖ ‖R_0‖), R = A Aᵀ, A a layer's activity (not centred);
- ``laziness/kernel_alignment``, the same of K = J Jᵀ, J the derivatives of all outputs for all points by the parameters

Alignments near 1 and a small change mean lazy learning. Over all parameters the kernel alignment is larger and hides
the change of one matrix (the paper uses the recurrent one), so choose those of interest: ``parameters:
[rnn.weight_hh_l0]``.

It works with any module whose ``forward`` takes the batch's input and treats points independently; it does not change
the model, which is in ``eval`` mode while it is measured. After a structural edit during training that changes the
chosen parameters, the comparison starts again. Expected on ``vision/image_classifier_digits``: alignments fall within
the first epoch, then slowly. Cost: a backward pass for each point and output, (points/chunk + 1) times; memory for the
derivatives of 2 ``chunk`` points by one parameter at a time. A checkpoint holds the chosen initial parameters and the
first kernel, (points x outputs)².
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from framework.editing import Context, Edit, choose
from framework.figures import new_figure
from framework.functional.laziness import kernel_alignment, representation_alignment
from framework.functional.ntk import tangent_kernel
from framework.observing.activity import activity_of
from framework.observing.probe import ProbeObserver
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def blockwise_kernel(model: nn.Module, x: Tensor, parameters: list[str], chunk: int) -> Tensor:
    """Computes Θ(x, x) with separate outputs, in blocks of points.

    Args:
        model: Maps x to (P, …), C numbers per point; points must be independent.
        x: (P, …).
        parameters: Names of the parameters to differentiate by.
        chunk: Number of points per block.

    Returns:
        (P C, P C), float64, on the CPU.
    """
    parts = x.split(chunk)
    rows: list[list[Tensor]] = [[] for _ in parts]
    for i, left in enumerate(parts):
        for j, right in enumerate(parts):
            if j < i:
                rows[i].append(rows[j][i].mT)
            else:
                block = tangent_kernel(model, left, right, parameters, chunk, apart=True)
                rows[i].append(block.flatten(2).flatten(0, 1))
    return torch.cat([torch.cat(row, 1) for row in rows])


def laziness_figure(points: list[dict[str, float]]) -> Figure:
    """Draws alignments, and the relative change of the weights, over steps."""
    figure = new_figure(1, 2)
    left, right = figure.axes
    steps = [point["step"] for point in points]
    for name in ("representation_alignment", "kernel_alignment"):
        if name in points[0]:
            left.plot(steps, [point[name] for point in points], "o-", markersize=3, label=name.replace("_", " "))
    right.plot(steps, [point["relative_change"] for point in points], "o-", markersize=3)
    left.set(xlabel="step", ylabel="with the start", ylim=(None, 1.02))
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel="step", ylabel="‖W − W₀‖ / ‖W₀‖")
    return figure


class Laziness(ProbeObserver):
    """Logs and draws the change of weights, representation and kernel since the start.

    Args:
        every_n_steps: Optimiser steps between two measurements.
        points: Largest number of points of the probe.
        layer: Layer whose output is the representation; by default the input of the last layer with weights.
        parameters: Patterns of parameter names, for the weights and the kernel; by default all trainable ones.
        kernel: Whether the kernel is measured, which takes most of the time.
        chunk: Number of points that are differentiated together.

    Raises:
        UserError: a setting is not accepted; the module has no ``forward``; a name does not exist (at the start); the
            first batch is not inputs and targets.
    """

    technique = "laziness"
    prefix = "laziness"
    kept: ClassVar[tuple[str, ...]] = ("weights", "activity", "start")

    def __init__(
        self,
        every_n_steps: int = 50,
        points: int = 32,
        layer: str | None = None,
        parameters: list[str] | None = None,
        kernel: bool = True,
        chunk: int = 16,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps, points=points, chunk=chunk)
        super().__init__(every_n_steps, points)
        self.layer, self.parameters, self.kernel, self.chunk = layer, parameters, kernel, chunk
        self.weights: dict[str, Tensor] = {}
        self.activity: Tensor | None = None
        self.start: Tensor | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses names of parameters and layers that do not exist, unless an edit may add them."""
        super().check(model, context)
        if not any(isinstance(other, Edit) for other in context.techniques.values()):
            choose([name for name, _ in model.named_parameters()], self.parameters, key="laziness.parameters")

    def look(self, module: pl.LightningModule, x: Tensor, y: Tensor) -> dict[str, float]:
        """Measures (see the module's docstring)."""
        own = dict(module.named_parameters())
        trained = [name for name, value in own.items() if value.requires_grad]
        names = choose(own, self.parameters, key="laziness.parameters") if self.parameters is not None else trained
        now = {name: own[name].detach().cpu() for name in names}
        activity = activity_of(module, x, self.layer, "laziness.layer").cpu().double()
        kernel = blockwise_kernel(module, x, names, self.chunk) if self.kernel else None
        if {name: value.shape for name, value in now.items()} != {n: w.shape for n, w in self.weights.items()}:
            if self.weights:
                rank_zero_info("laziness: the model has other parameters than at the start; it is compared from now on")
            self.weights = {name: value.clone() for name, value in now.items()}
            self.activity, self.start = activity, kernel
        assert self.activity is not None
        change = sum(float((now[name] - start).double().square().sum()) for name, start in self.weights.items()) ** 0.5
        size = sum(float(start.double().square().sum()) for start in self.weights.values()) ** 0.5
        found = {"weight_change": change, "relative_change": change / size if size else float("nan")}
        found["representation_alignment"] = float(representation_alignment(activity, self.activity))
        if kernel is not None and self.start is not None:
            found["kernel_alignment"] = float(kernel_alignment(kernel, self.start))
        return found

    def figure(self) -> Figure:
        """Draws alignments and change."""
        return laziness_figure(self.points)
