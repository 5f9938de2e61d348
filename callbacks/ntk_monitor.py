"""NTK monitor: how far the empirical tangent kernel of a network moves in training.

Paper: Jacot, Gabriel, Hongler, 2018, "Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
NeurIPS, arXiv 1806.07572.

Of the first batch of training, ``points`` inputs are kept as a probe. Every ``every_n_steps`` and at the end of an
epoch Θ, summed over outputs, is logged as

- ``ntk/drift`` ‖Θ_t − Θ_0‖_F / ‖Θ_0‖_F, near 0 in the kernel regime, and ``ntk/inflation`` ΣΘ_t / ΣΘ_0;
- ``ntk/lambda1`` … the largest eigenvalues of Θ/N;
- ``ntk/alignment`` Σ_c y_cᵀ Θ y_c / (‖Θ‖_F ‖y‖²) with the probe's targets (classes one-hot, less their mean).

Works on any module whose ``forward`` takes the batch's input, each point by itself; changes nothing in the model, which
is looked at in ``eval`` mode. Cost: a backward pass for each probe point and output; one parameter's derivatives at a
time in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from framework.editing import Observer
from framework.errors import UserError
from framework.figures import log_figure, new_figure
from framework.ntk import alignment, drift, inflation, tangent_kernel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drift_figure(points: list[dict[str, float]]) -> Figure:
    """Drift and inflation, and alignment, over steps."""
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


def probe_of(batch: Any, points: int) -> tuple[Tensor, Tensor]:
    """Inputs (P, …) and targets (P, C) of the first points of a batch: a pair, or a mapping with ``x`` and ``y``.

    Raises:
        UserError: the batch is something else.
    """
    pair = (batch.get("x"), batch.get("y")) if isinstance(batch, Mapping) else batch
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair)):
        raise UserError("ntk_monitor: a batch must be inputs and targets, or hold x and y")
    x, y = (part[:points].detach().clone() for part in pair)
    if not y.is_floating_point():
        y = torch.nn.functional.one_hot(y.flatten()).double()
        y = y - y.mean(0)
    return x, y.flatten(1) if y.ndim > 1 else y[:, None]


class NTKMonitor(Observer):
    """Logs and draws the kernel's drift, largest eigenvalues and alignment.

    Args:
        every_n_steps: Between two looks.
        points: Of the probe, at most.
        eigenvalues: How many are logged.
        chunk: Points that are differentiated together.

    Raises:
        UserError: a setting is not accepted; at the first batch, it is not inputs and targets.
    """

    def __init__(self, every_n_steps: int = 50, points: int = 32, eigenvalues: int = 3, chunk: int = 16) -> None:
        sizes = {"every_n_steps": every_n_steps, "points": points, "eigenvalues": eigenvalues, "chunk": chunk}
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"ntk_monitor.{name}: {value} is not accepted; at least 1")
        self.every_n_steps, self.size, self.eigenvalues, self.chunk = every_n_steps, points, eigenvalues, chunk
        self.points: list[dict[str, float]] = []
        self.probe: tuple[Tensor, Tensor] | None = None
        self.start: Tensor | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the probe and the kernel of the start."""
        if self.probe is None:
            self.probe = probe_of(batch, self.size)
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks after every so many steps."""
        if trainer.global_step % self.every_n_steps == 0:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the end of the epoch."""
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.probe is not None
        if not self.points or self.points[-1]["step"] != trainer.global_step:
            modes = {module: module.training for module in pl_module.modules()}
            pl_module.eval()
            kernel = tangent_kernel(pl_module, self.probe[0].to(pl_module.device), chunk=self.chunk)
            for module, mode in modes.items():
                module.training = mode
            self.start = kernel if self.start is None else self.start
            found = {"drift": drift(kernel, self.start), "inflation": inflation(kernel, self.start)}
            found["alignment"] = alignment(kernel, self.probe[1].cpu())
            values = torch.linalg.eigvalsh(kernel).flip(0)[: self.eigenvalues] / len(kernel)
            found |= {f"lambda{index}": value for index, value in enumerate(values, 1)}
            self.points.append({"step": trainer.global_step, **{name: float(value) for name, value in found.items()}})
        for name, value in self.points[-1].items():
            if name != "step":
                pl_module.log(f"ntk/{name}", value, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws."""
        if self.points:
            log_figure(trainer, "ntk_monitor", drift_figure(self.points))

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, the probe and the kernel of the start."""
        return {"points": self.points, "probe": self.probe, "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on."""
        self.points = list(state_dict["points"])
        self.probe, self.start = state_dict["probe"], state_dict["start"]
