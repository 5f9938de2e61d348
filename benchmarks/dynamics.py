"""Learning dynamics: through the framework against a hand-written loop of one seed, and 32 seeds against 32 such loops.

Run: ``python benchmarks/dynamics.py``, one thread. The plain loops do the same arithmetic for one seed, with the same
measurements at the same steps. A whole ``fit`` is timed from its first step to its last, its start-up left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import lightning.pytorch as pl
import torch
from _timing import Row, medians

from framework.api import build
from modules.dynamics.ensemble import record_points

STEPS, EVERY = 20_000, 1000


class Clock(pl.Callback):
    """When the first training step began and the last ended."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """Notes the first."""
        if trainer.global_step == 0:
            self.first = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        """Notes the last."""
        self.last = time.perf_counter()


def fitted(config: str, *overrides: str) -> float:
    """Seconds of the training steps of a ``fit``."""
    quiet = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    steps = [f"--model.inner_steps={EVERY}", f"--data.passes={STEPS // EVERY}", "--trainer.max_epochs=1"]
    trainer, model, data = build(config, overrides=[*overrides, *quiet, *steps, "--trainer.logger=false"])
    clock = Clock()
    trainer.callbacks.append(clock)
    trainer.fit(model, data)
    return clock.last - clock.first


def sensing(n: int) -> Callable[[], object]:
    """Asymmetric matrix sensing without an operator, one seed."""
    m = torch.randn(n, 3, dtype=torch.float64) @ torch.randn(3, n, dtype=torch.float64) / n
    points = set(record_points(STEPS, 200))

    def loop() -> object:
        f, g = (torch.randn(n, 5, dtype=torch.float64) / n**0.5 for _ in range(2))
        seen = []
        for step in range(STEPS):
            d = f @ g.T - m
            if step in points:
                seen.append(float(d.square().sum()))
            f, g = f - 0.1 * (d @ g), g - 0.1 * (d.T @ f)
        return seen

    return loop


def linear(inputs: int, outputs: int, hidden: int) -> Callable[[], object]:
    """A linear network of two layers, one seed."""
    s31, s11 = torch.randn(outputs, inputs, dtype=torch.float64), torch.eye(inputs, dtype=torch.float64)
    points = set(record_points(STEPS, 200))

    def loop() -> object:
        a = 0.01 * torch.randn(hidden, inputs, dtype=torch.float64)
        b = 0.01 * torch.randn(outputs, hidden, dtype=torch.float64)
        seen = []
        for step in range(STEPS):
            error = b @ a @ s11 - s31
            if step in points:
                seen.append(float(error.square().sum()))
            a, b = a - 5e-4 * (b.T @ error), b - 5e-4 * (error @ a.T)
        return seen

    return loop


def rows() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = []
    for n in (10, 50):
        shapes = [f"--data.rows={n}", "--data.measurements=0", "--model.alpha=[0.5]"]
        cases.append((f"matrix sensing, {n} x {n}, k = 5", "dynamics/matrix_sensing", shapes, sensing(n)))
    for depth, features in ((3, 10), (5, 100)):
        n = 2**depth
        tree = [f"--data.depth={depth}", f"--data.features={features}", f"--model.inputs={n}", f"--model.hidden={n}"]
        name = f"deep linear, {n}-{n}-{features}"
        loop = linear(n, features, n)
        cases.append((name, "dynamics/deep_linear", [*tree, "--model.init=small", "--model.track=[1]"], loop))
    found: list[Row] = []
    for name, config, options, loop in cases:
        (plain,) = medians([loop], 3)
        one = sorted(fitted(config, *options, "--model.seeds=1") for _ in range(3))[1]
        many = sorted(fitted(config, *options, "--model.seeds=32") for _ in range(3))[1]
        took = f"{plain / STEPS * 1e6:.0f} µs"
        found.append((f"{name}: fit of one seed / plain loop ({took} a step)", one / plain, "at most 1.2"))
        found.append((f"{name}: 32 plain loops / fit of 32 seeds", 32 * plain / many, "at least 8"))
    return found


if __name__ == "__main__":
    for label, value, bound in rows():
        print(f"{label:88} {value:9.3f}  {bound}", flush=True)
