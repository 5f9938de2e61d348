"""Small models that are trained side by side on all of the data, with many steps in one training step.

A theory of learning dynamics is checked on thousands of steps of some microseconds, over seeds and settings. So the
parameters of E members are kept in tensors whose first dimension counts them, a training step takes ``inner_steps``
steps of each, and what is measured is measured for all members at once, at chosen steps only.
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
    """Steps at which to measure: 0, ``total``, half of ``points`` evenly and half of them geometrically between."""
    half = max(1, points // 2)
    even = np.linspace(0, total, half + 1)
    geometric = np.geomspace(1, max(total, 1), half)
    return sorted({0, total, *even.round().astype(int).tolist(), *geometric.round().astype(int).tolist()})


class Ensemble(Module):
    """The base class of experiments on learning dynamics.

    A subclass makes parameters with a first dimension of E members and gives

    - :meth:`losses`, or :meth:`gradients` where they are written by hand,
    - :meth:`measure`, what is recorded of each member, and :meth:`theory`, what is predicted of it by the same names,
    - :meth:`settings`, what distinguishes the members, and :meth:`draw`, the pictures.

    The measurements are means over members in the log (``train/<name>``, ``train/<name>/theory``); all of them are in
    ``trajectory.npz`` of the run folder: ``step`` (R,), each setting (E,), each measurement and prediction (R, E).

    Args:
        inner_steps: Optimiser steps in one training step.
        points: About how many times the members are measured over the whole of training.
        optimizer: By default SGD at a rate of 0.1 without weight decay, which the theories are mostly about.

    Raises:
        UserError: a setting is not accepted.
    """

    automatic_optimization = False
    may_diverge = True  # a member that does is one of the measurements

    def __init__(self, inner_steps: int = 100, points: int = 200, optimizer: OptimizerConfig | None = None) -> None:
        super().__init__(OptimizerConfig("sgd", lr=0.1, weight_decay=0.0) if optimizer is None else optimizer)
        at_least(1, inner_steps=inner_steps)
        at_least(2, points=points)
        self.inner_steps, self.points = inner_steps, points
        self.steps_taken = 0
        self.history: list[tuple[int, dict[str, Tensor]]] = []
        self.kept: Any = None  # what a subclass keeps of the start, plain data and tensors; in the checkpoint
        self._looked_up: list[Tensor] | None = None

    def begin(self, batch: Batch) -> None:
        """What of the start depends on the data, and what the data must be; before the first step of all.

        Raises:
            UserError: the data do not fit.
        """

    def setup(self, stage: str) -> None:
        """Begins, if there are no steps yet; a checkpoint's weights come after it.

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
        """What of a batch inner step number ``inner`` is taken on; by default all of it, each time.

        Where each step needs data of its own, a batch holds them for all inner steps.
        """
        return batch

    def settings(self) -> dict[str, Sequence[Any]]:
        """What distinguishes the members: names to E values each."""
        raise NotImplementedError

    def stacks(self) -> list[Tensor]:
        """The parameters in order, (E, …) each; while steps are taken they are looked up once, not at each."""
        return self._looked_up or list(self.parameters())

    def losses(self, batch: Batch) -> Tensor:
        """The training loss of each member, (E,)."""
        raise NotImplementedError

    def gradients(self, batch: Batch) -> list[Tensor]:
        """The gradient of each parameter, in the order of ``parameters()``; by autograd if not overridden."""
        with torch.enable_grad():
            return list(torch.autograd.grad(self.losses(batch).sum(), self.stacks()))

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """What is recorded of each member: names to (E,)."""
        raise NotImplementedError

    def theory(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """What is predicted after ``step`` steps, by the names of :meth:`measure`: names to (E,); may be NaN."""
        return {}

    def draw(self) -> None:
        """Draws what was measured, at the end of training."""

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Takes ``inner_steps`` steps, and measures in between where it is due."""
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
        """The same without a Trainer: takes ``steps`` steps and measures on the way.

        Args:
            batch: All of the data.
            steps: How many more.
            at: Numbers of the steps after which to measure; by default about ``points`` of them.

        Returns:
            As :meth:`trajectory`, from the first step of all.
        """
        optimizer, end = build_optimizer(self, self.optimizer_config), self.steps_taken + steps
        for step in sorted({end, *(record_points(end, self.points) if at is None else at)}):
            if self.steps_taken <= step <= end:
                self.advance(batch, step - self.steps_taken, optimizer)
                self.record(batch)
        return self.trajectory()

    def advance(self, batch: Batch, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Takes ``steps`` steps of all members; those of plain SGD without the optimiser's bookkeeping."""
        group = optimizer.param_groups[0]
        bare = type(optimizer) is torch.optim.SGD and len(optimizer.param_groups) == 1
        if bare and not (group["momentum"] or group["weight_decay"] or group["maximize"]):
            parameters = self._looked_up = list(self.parameters())
            rate, start = group["lr"], self.steps_taken
            for step in range(
                start, start + steps
            ):  # steps_taken, an attribute of a module, would take a fifth of a step
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
        """Measures all members now."""
        if self.history and self.history[-1][0] == self.steps_taken:
            return
        measured = {name: value.detach().cpu().clone() for name, value in self.measure(batch).items()}
        for name, value in self.theory(batch, self.steps_taken).items():
            measured[f"{name}/theory"] = value.detach().cpu()
        self.history.append((self.steps_taken, measured))

    def trajectory(self) -> dict[str, np.ndarray]:
        """All that was recorded: ``step`` (R,), each setting (E,), each measurement and prediction (R, E)."""
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
        """Adds what was recorded, and the start."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ensemble"] = {"steps_taken": self.steps_taken, "history": self.history, "kept": self.kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from what was recorded, and from the start that was."""
        super().on_load_checkpoint(checkpoint)
        self.steps_taken = checkpoint["ensemble"]["steps_taken"]
        self.history = list(checkpoint["ensemble"]["history"])
        self.kept = checkpoint["ensemble"]["kept"]

    def _total(self) -> int:
        """Steps of the whole of training."""
        trainer = self.trainer
        batches = trainer.num_training_batches * (trainer.max_epochs or 1)
        if trainer.max_steps > 0:
            batches = min(batches, trainer.max_steps)
        return int(batches) * self.inner_steps if math.isfinite(batches) else 0


def prepared(config: str, *overrides: str) -> tuple[Ensemble, Batch]:
    """The model of a config and the batch that it trains on, for :meth:`Ensemble.simulate`.

    Args:
        config: A path or the short name of a shipped config.
        *overrides: As typed on the command line.
    """
    from framework.runs.experiment import build

    quiet = ["--wandb.mode=disabled", "--trainer.logger=false"]
    _, model, data = build(config, overrides=[*overrides, *quiet])
    data.setup("fit")
    ensemble = cast(Ensemble, model)
    ensemble.begin(data.train_set.batch)
    return ensemble, data.train_set.batch
