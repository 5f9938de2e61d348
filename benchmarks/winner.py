"""A training step of a SIREN² through the framework against the loop that a person would write in plain PyTorch.

Run: ``python benchmarks/winner.py [--samples 2048 8192] [--width 64] [--steps 200] [--rounds 3]``.
Full-batch steps on the same signal, with the same layer sizes and Adam. The plain side has its own small SIREN and
torch's Adam in both forms: as torch builds it, and fused. Both sides run in turn; each one's quietest round counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from _rows import Row, duration, report
from lightning.pytorch import Callback
from torch import Tensor, nn

import framework
from framework.claims import at_most


class Clock(Callback):
    """Notes when the second step starts and the last one ends."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.steps = 0

    def on_train_batch_start(self, *args: Any) -> None:
        """Called before a batch is used."""
        if self.steps == 1:
            self.first = time.perf_counter()
        self.steps += 1

    def on_train_end(self, *args: Any) -> None:
        """Called after the last epoch's validation."""
        self.last = time.perf_counter()


class PlainSIREN(nn.Module):
    """Sitzmann et al. 2020, the first frequency that of the others."""

    def __init__(self, width: int, hidden: int = 4, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        sizes = [1, *[width] * hidden, 1]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        with torch.no_grad():
            self.layers[0].weight.uniform_(-1, 1)
            for layer in self.layers[1:]:
                layer.weight.uniform_(-((6 / width) ** 0.5) / omega, (6 / width) ** 0.5 / omega)

    def forward(self, x: Tensor) -> Tensor:
        """Values (N, 1) at coordinates (N, 1)."""
        for layer in self.layers[:-1]:
            x = torch.sin(self.omega * layer(x))
        return self.layers[-1](x)


def through_framework(samples: int, width: int, steps: int, passes: int, folder: str) -> float:
    experiment = framework.build(
        "initialization/winner_band_noise",
        [f"--data.samples={samples}", f"--model.width={width}", f"--data.passes={passes}",
         f"--trainer.max_epochs={steps // passes}", f"--run.root={folder}", "--model.diagnostics=false",
         "--wandb.mode=disabled", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false",
         f"--model.schedule.every={20 // passes}"],
    )  # fmt: skip
    clock = Clock()
    experiment.trainer.callbacks.append(clock)
    experiment.run()
    return (clock.last - clock.first) / (clock.steps - 1)


def plain(samples: int, width: int, steps: int, fused: bool) -> float:
    x = torch.linspace(-1, 1, samples)[:, None]
    y = torch.from_numpy(np.random.default_rng(0).standard_normal((samples, 1))).float()
    model = PlainSIREN(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=fused or None)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.99)
    start = 0.0
    for step in range(steps):
        if step == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        schedule.step()
    return (time.perf_counter() - start) / (steps - 1)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    for samples in options.samples:
        best = [float("inf")] * 4
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                found = [
                    plain(samples, options.width, options.steps, fused=False),
                    plain(samples, options.width, options.steps, fused=True),
                    through_framework(samples, options.width, options.steps, 20, folder),
                    through_framework(samples, options.width, options.steps, 1, folder),
                ]
            best = [min(a, b) for a, b in zip(best, found, strict=True)]
        default, fused, twenty, one = best
        step = f"full-batch step of a SIREN, 4 layers of {options.width}, {samples:,} samples"
        yield Row(f"{step}, 20 steps an epoch", "a plain loop, Adam", twenty / default, duration(default), at_most(1.3))
        yield Row(f"{step}, 20 steps an epoch", "a plain loop, fused Adam", twenty / fused, duration(fused))
        yield Row(f"{step}, 1 step an epoch", "a plain loop, Adam", one / default, duration(default))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
