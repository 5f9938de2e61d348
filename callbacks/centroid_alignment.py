"""Centroid alignment: how the rows of the input Jacobian become parallel to the input while a network learns.

Paper: GrokAlign: Geometric Characterisation and Acceleration of Grokking (Walker, Humayun, Balestriero & Baraniuk 2025,
arXiv 2506.12284).

``points`` inputs of the first training batch are stored as a probe. On a geometric grid of optimiser steps
(``per_decade`` in each factor of ten) means over the probe are logged of

- ``centroid_alignment/alignment``, ⟨μ, x⟩ / (|μ| |x|), with μ = J_xᵀ 1 the centroid: 1 or -1 if the Jacobian is
  aligned, that is c xᵀ (not conversely);
- ``centroid_alignment/norm``, |μ|, and ``centroid_alignment/inner``, ⟨μ, x⟩. In ReLU nets without biases ⟨μ, x⟩ is the
  sum of the outputs; where it moves, features are learnt;
- ``centroid_alignment/pc1``, σ₁² / Σ σ², the share of the first singular value of J_x: 1 for rank one. It needs a
  gradient for each output; ``pc1: false`` leaves it out. Inputs whose Jacobian is 0 do not count.

The figure has the logged accuracies and the alignment over log steps, and the first probe input beside its centroid,
where inputs are images or vectors of n² numbers, n at least 5.

It works with any module whose ``forward`` takes the batch's input; for tokens name the embedding (``embed:
net.embed``), by which the outputs are differentiated instead. The module is in ``eval`` mode while it is measured, and
is not changed. Cost: one backward pass of the probe for each output and measurement; steps between cost nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from framework.editing import Context, Edit
from framework.editing.capture import submodule
from framework.errors import UserError
from framework.figures import new_figure
from framework.functional.jacobian import alignment, centroid, jacobian, rank_one_share, sample_outputs
from framework.observing.probe import ProbeObserver
from framework.settings import at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACIES = ("train/accuracy", "val/accuracy")


def measure_alignment(
    model: nn.Module, x: Tensor, embed: nn.Module | None = None, pc1: bool = True
) -> tuple[dict[str, float], Tensor]:
    """Returns the means of the measurements over a batch (see the module's docstring), and the centroids (B, …).

    Args:
        model: Maps x to outputs, (B, C) or with more dimensions; in ``eval`` mode. No gradients are left on parameters.
        x: Inputs (B, …).
        embed: A submodule whose output counts as the input.
        pc1: Whether σ₁² / Σ σ² is measured.

    Raises:
        UserError: the outputs do not depend on the input by operations that have a gradient.
    """
    opened: list[Tensor] = []

    def open_embedding(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        opened.append(output.detach().requires_grad_())
        return opened[0].clone()

    with torch.inference_mode(False), torch.enable_grad():
        if embed is not None:
            handle = embed.register_forward_hook(open_embedding)
            try:
                outputs = sample_outputs(model(x))
            finally:
                handle.remove()
        elif x.is_floating_point():
            opened.append(x.clone().requires_grad_())
            outputs = sample_outputs(model(opened[0].clone()))
        if not opened or outputs.grad_fn is None:
            raise UserError(
                "centroid_alignment: the outputs cannot be differentiated by the inputs; for tokens name the embedding "
                "(embed)"
            )
        x = opened[0]
        mu = centroid(outputs, x)
        share = rank_one_share(jacobian(outputs, x)).nanmean() if pc1 else None
    wide = torch.promote_types(mu.dtype, torch.float32)
    x, flat = x.detach().to(wide), mu.flatten(1).to(wide)
    found = {
        "alignment": float(alignment(mu, x).mean()),
        "norm": float(flat.norm(dim=1).mean()),
        "inner": float((flat * x.flatten(1)).sum(1).mean()),
    }
    return found if share is None else {**found, "pc1": float(share)}, mu


def as_image(values: Tensor) -> Tensor | None:
    """Returns a sample as an image (H, W) or (H, W, 3), or ``None`` if it is none.

    Args:
        values: (H, W), (C, H, W) with C 1 or 3, or (H²,) with H at least 5.
    """
    if values.ndim == 1:
        side = math.isqrt(len(values))
        return values.view(side, side) if side >= 5 and side * side == len(values) else None
    if values.ndim == 3 and len(values) in (1, 3):
        return values[0] if len(values) == 1 else values.movedim(0, -1)
    return values if values.ndim == 2 and min(values.shape) >= 5 else None


def alignment_figure(
    points: list[dict[str, float]], curve: list[dict[str, float]], x: Tensor | None = None, mu: Tensor | None = None
) -> Figure:
    """Draws accuracies and alignment over log steps, and a training example beside its centroid.

    Args:
        points: The measurements with their ``step``.
        curve: Accuracies by name, with their ``step``.
        x: The example, see :func:`as_image`.
        mu: Its centroid.
    """
    pair = [None if part is None else as_image(part.detach().float().cpu()) for part in (x, mu)]
    images = [(name, part) for name, part in zip(("input", "centroid"), pair, strict=True) if part is not None]
    columns = 2 + (len(images) if len(images) == 2 else 0)
    figure = new_figure(1, columns, size=(4.6 * 2 + 2.6 * (columns - 2), 3.4))
    left, right = figure.axes[:2]
    for name in ACCURACIES:
        known = [(entry["step"], entry[name]) for entry in curve if name in entry]
        if known:
            left.plot(*zip(*known, strict=True), label=name)
    left.set(xlabel="optimiser step", ylabel="accuracy", xscale="log", ylim=(-0.02, 1.02))
    if left.lines:
        left.legend(frameon=False, fontsize=8)
    steps = [max(point["step"], 0.5) for point in points]  # the start on a log axis
    coloured = right.scatter(steps, [p["alignment"] for p in points], c=[p["norm"] for p in points], s=16, zorder=3)
    right.plot(steps, [p["alignment"] for p in points], color="0.8", linewidth=1)
    if "pc1" in points[0]:
        right.plot(steps, [p["pc1"] for p in points], "--", color="C3", linewidth=1, label="pc1")
        right.legend(frameon=False, fontsize=8)
    right.set(xlabel="optimiser step", ylabel="centroid alignment", xscale="log")
    figure.colorbar(coloured, ax=right, label="|μ|")
    for axes, (name, picture) in zip(figure.axes[2:4], images if len(images) == 2 else (), strict=False):
        picture = picture if picture.ndim == 2 else (picture - picture.min()) / (picture.max() - picture.min() + 1e-12)
        axes.imshow(picture.numpy(), cmap="gray" if name == "input" else "RdBu_r")
        axes.set(title=name, xticks=[], yticks=[])
    return figure


class CentroidAlignment(ProbeObserver):
    """Logs and draws the alignment of centroids with inputs, on a geometric grid of steps.

    Args:
        points: Largest number of points of the probe.
        per_decade: Measurements in each factor of ten of optimiser steps.
        pc1: Whether the share of the first singular value is measured.
        embed: Name of the submodule whose output counts as the input: for tokens their embedding.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module has no ``forward`` (before training);
            there is no such submodule, or nothing to differentiate by (at the start).
    """

    technique = "centroid_alignment"
    prefix = "centroid_alignment"
    kept: ClassVar[tuple[str, ...]] = ("curve", "mu")

    def __init__(self, points: int = 16, per_decade: int = 10, pc1: bool = True, embed: str | None = None) -> None:
        at_least(1, points=points, per_decade=per_decade)
        super().__init__(1, points)
        self.per_decade, self.pc1, self.embed = per_decade, pc1, embed
        self.curve: list[dict[str, float]] = []
        self.mu: Tensor | None = None
        self._next, self._next_epoch, self._validated = 1, 1, False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes that there are new metrics."""
        self._validated = not trainer.sanity_checking

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses modules without ``forward``, and an embedding that does not exist, unless an edit may add it."""
        super().check(model, context)
        if not any(isinstance(other, Edit) for other in context.techniques.values()):
            submodule(model, self.embed, f"techniques.{self.name}.embed")

    def look(self, module: pl.LightningModule, x: Tensor, y: Tensor) -> dict[str, float]:
        """Measures (see the module's docstring)."""
        embed = None if self.embed is None else submodule(module, self.embed, f"techniques.{self.name}.embed")
        found, mu = measure_alignment(module, x, embed, self.pc1)
        self.mu = mu[0].detach().cpu()
        return found

    def _after(self, step: int) -> int:
        """Returns the next step of the grid after ``step``."""
        return max(step + 1, math.ceil(step * 10 ** (1 / self.per_decade)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures at the steps of the grid."""
        if trainer.global_step >= self._next:
            self._look(trainer, pl_module)
            self._next = self._after(trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the accuracies, on the same grid."""
        step = trainer.global_step
        validated, self._validated = self._validated, False
        if step >= self._next_epoch and (validated or not trainer.enable_validation):
            found = {
                name: float(trainer.callback_metrics[name]) for name in ACCURACIES if name in trainer.callback_metrics
            }
            self.curve.append({"step": step, **found})
            self._next_epoch = self._after(step)

    def figure(self) -> Figure:
        """Draws accuracies, alignment and the first input's centroid."""
        example = None if self.probe is None or self.embed is not None else self.probe[0][0]
        return alignment_figure(self.points, self.curve, example, None if example is None else self.mu)

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements and the next steps of the grid."""
        return {**super().state_dict(), "next": [self._next, self._next_epoch]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        super().load_state_dict(state_dict)
        self._next, self._next_epoch = state_dict["next"]
