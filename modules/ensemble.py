"""The base class of small models that are trained in parallel on all of the data, with many steps in one training step.

A theory of learning dynamics is checked on thousands of steps of some microseconds, over seeds and settings. So the
parameters of E members are stored in tensors with a first dimension of E, a training step performs ``inner_steps``
steps of each, and all members are measured together, at chosen steps only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from framework import OptimizerConfig
from framework.errors import UserError
from framework.module import Module
from framework.optim import build_optimizer
from framework.settings import at_least

Batch = Mapping[str, Tensor]


def record_points(total: int, points: int) -> list[int]:
    """Returns the steps at which to measure: 0, ``total``, and ``points`` between, half evenly, half geometrically."""
    half = max(1, points // 2)
    even = np.linspace(0, total, half + 1)
    geometric = np.geomspace(1, max(total, 1), half)
    return sorted({0, total, *even.round().astype(int).tolist(), *geometric.round().astype(int).tolist()})


class Ensemble(Module):
    """The base class of experiments on learning dynamics.

    A subclass makes parameters with a first dimension of E members and implements

    - :meth:`losses`, or :meth:`gradients` if they are implemented without autograd,
    - :meth:`measure`, the measurements of each member, and :meth:`theory`, their predictions under the same names,
    - :meth:`settings`, the settings in which members differ, and :meth:`draw`, the figures.

    The log has means over members (``train/<name>``, ``train/<name>/theory``); all values are in ``trajectory.npz`` in
    the run folder: ``step`` (R,), each setting (E,), each measurement and prediction (R, E).

    Args:
        inner_steps: Optimiser steps in one training step.
        points: Approximate number of measurements over the whole training.
        optimizer: By default SGD at a rate of 0.1 without weight decay, as in most of the theories.

    Raises:
        UserError: a setting is not accepted.
    """

    automatic_optimization = False
    may_diverge = True  # a member that diverges is a valid measurement

    def __init__(self, inner_steps: int = 100, points: int = 200, optimizer: OptimizerConfig | None = None) -> None:
        super().__init__(OptimizerConfig("sgd", lr=0.1, weight_decay=0.0) if optimizer is None else optimizer)
        at_least(1, inner_steps=inner_steps)
        at_least(2, points=points)
        self.inner_steps, self.points = inner_steps, points
        self.steps_taken = 0
        self.history: list[tuple[int, dict[str, Tensor]]] = []
        self.kept: Any = None  # a subclass's data from the start, plain data and tensors; saved in checkpoints
        self._looked_up: list[Tensor] | None = None

    def begin(self, batch: Batch) -> None:
        """Prepares data that depends on the batch, and checks the batch; called before the first step.

        Raises:
            UserError: the data do not fit.
        """

    def setup(self, stage: str) -> None:
        """Starts, if there are no steps yet; a checkpoint's weights come after it.

        Raises:
            UserError: there are several processes.
        """
        if self.trainer.world_size > 1:
            raise UserError(
                f"trainer.devices, num_nodes: {self.trainer.world_size} processes are not accepted; members train side "
                "by side in one"
            )
        batch = getattr(getattr(getattr(self.trainer, "datamodule", None), "train_set", None), "batch", None)
        if stage == "fit" and batch is not None and self.steps_taken == 0:
            self.begin(batch)

    def part(self, batch: Batch, inner: int) -> Batch:
        """Returns the part of a batch for inner step ``inner``; by default all of it.

        If each step needs different data, a batch has the data of all inner steps.
        """
        return batch

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns the settings in which members differ: maps names to E values each."""
        raise NotImplementedError

    def stacks(self) -> list[Tensor]:
        """Returns the parameters in order, (E, …) each; looked up once, not at each step."""
        return self._looked_up or list(self.parameters())

    def losses(self, batch: Batch) -> Tensor:
        """The training loss of each member, (E,)."""
        raise NotImplementedError

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Returns the gradient of each parameter, in the order of ``parameters()``; by autograd if not overridden."""
        with torch.enable_grad():
            return list(torch.autograd.grad(self.losses(batch).sum(), self.stacks()))

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements of each member: maps names to (E,)."""
        raise NotImplementedError

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the predictions after ``step`` steps by the names of :meth:`measure`: maps names to (E,) or NaN."""
        return {}

    def draw(self) -> None:
        """Draws the measurements at the end of training."""

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Performs ``inner_steps`` steps, and measures at the chosen ones."""
        wrapped: Any = self.optimizers()
        end, total = self.steps_taken + self.inner_steps, self._total()
        for step in record_points(total, self.points):
            if self.steps_taken <= step < end:
                self.advance(batch, step - self.steps_taken, wrapped.optimizer)
                self.record(batch)
        self.advance(batch, end - 1 - self.steps_taken, wrapped.optimizer)
        self._fill_gradients(batch)
        wrapped.step()  # Lightning counts training steps by it
        self.steps_taken += 1
        if (scheduler := self.lr_schedulers()) is not None:
            cast(Any, scheduler).step()  # so a schedule is one of training steps, not of inner ones
        if end == total:
            self.record(batch)
        for name, value in self.history[-1][1].items():
            self.log(f"train/{name}", value.mean(), prog_bar="/" not in name)

    @torch.no_grad()
    def simulate(self, batch: Batch, steps: int, at: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Trains without a Trainer: performs ``steps`` steps and measures at the chosen ones.

        Args:
            batch: All of the data.
            steps: Number of more.
            at: Steps after which to measure; by default about ``points`` of them.

        Returns:
            The same as :meth:`trajectory`, from the first step.
        """
        optimizer, end = build_optimizer(self, self.optimizer_config), self.steps_taken + steps
        for step in sorted({end, *(record_points(end, self.points) if at is None else at)}):
            if self.steps_taken <= step <= end:
                self.advance(batch, step - self.steps_taken, optimizer)
                self.record(batch)
        return self.trajectory()

    def advance(self, batch: Batch, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Performs ``steps`` steps of all members; those of plain SGD without the optimiser's overhead."""
        group = optimizer.param_groups[0]
        bare = type(optimizer) is torch.optim.SGD and len(optimizer.param_groups) == 1
        if bare and not (group["momentum"] or group["weight_decay"] or group["maximize"]):
            parameters = self._looked_up = list(self.parameters())
            rate, start = group["lr"], self.steps_taken
            for step in range(
                start, start + steps
            ):  # reading the module's attribute steps_taken would take a fifth of a step's time
                found = self.gradients(self.part(batch, step % self.inner_steps))
                torch._foreach_add_(parameters, found, alpha=-rate)
            self._looked_up = None
            self.steps_taken += steps
        else:
            for _ in range(steps):
                self._fill_gradients(batch)
                optimizer.step()
                self.steps_taken += 1

    def _fill_gradients(self, batch: Batch) -> None:
        found = self.gradients(self.part(batch, self.steps_taken % self.inner_steps))
        for parameter, gradient in zip(self.parameters(), found, strict=True):
            parameter.grad = gradient

    def record(self, batch: Batch) -> None:
        """Measures all members."""
        if self.history and self.history[-1][0] == self.steps_taken:
            return
        measured = {name: value.detach().cpu().clone() for name, value in self.measure(batch).items()}
        for name, value in self.theory(batch, self.steps_taken).items():
            measured[f"{name}/theory"] = value.detach().cpu()
        self.history.append((self.steps_taken, measured))

    def trajectory(self) -> dict[str, np.ndarray]:
        """Returns all that was recorded: ``step`` (R,), each setting (E,), each measurement and prediction (R, E)."""
        names = self.history[0][1] if self.history else {}
        found = {"step": np.array([step for step, _ in self.history])}
        found |= {name: np.asarray(values) for name, values in self.settings().items()}
        return found | {name: torch.stack([row[name] for _, row in self.history]).numpy() for name in names}

    def on_train_end(self) -> None:
        """Writes ``trajectory.npz`` and draws."""
        if self.trainer.is_global_zero:
            arrays: dict[str, Any] = self.trajectory()
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(folder / "trajectory.npz", **arrays)
            self.draw()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the measurements and the data from the start."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ensemble"] = {"steps_taken": self.steps_taken, "history": self.history, "kept": self.kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the measurements and the data from the start."""
        super().on_load_checkpoint(checkpoint)
        self.steps_taken = checkpoint["ensemble"]["steps_taken"]
        self.history = list(checkpoint["ensemble"]["history"])
        self.kept = checkpoint["ensemble"]["kept"]

    def _total(self) -> int:
        """Number of steps of the whole training."""
        trainer = self.trainer
        batches = trainer.num_training_batches * (trainer.max_epochs or 1)
        if trainer.max_steps > 0:
            batches = min(batches, trainer.max_steps)
        return int(batches) * self.inner_steps if math.isfinite(batches) else 0


def prepared(config: str, *overrides: str) -> tuple[Ensemble, Batch]:
    """Returns the model of a config and the batch that it trains on, for :meth:`Ensemble.simulate`.

    Args:
        config: A path or the short name of a shipped config.
        *overrides: Options as on the command line.
    """
    from framework.runs.experiment import build

    quiet = ["--wandb.mode=disabled", "--trainer.logger=false"]
    _, model, data = build(config, overrides=[*overrides, *quiet])
    data.setup("fit")
    ensemble = cast(Ensemble, model)
    ensemble.begin(data.train_set.batch)
    return ensemble, data.train_set.batch
