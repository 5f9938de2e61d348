"""Cost of a training step through the framework against a plain PyTorch loop over the same model, data and optimiser.

Both sides are timed in turn in one process, the first step left out; each side's quietest round counts, because on a
shared machine noise only adds. W&B writes offline, as by default.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from _rows import Row, duration, report
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

import framework
from framework.claims import at_most
from framework.optim import build_optimizer, build_schedule

# Config, overrides, and the largest allowed ratio: Lightning's own loop takes 1 to 2 ms per step.
CASES: dict[str, tuple[str, list[str], float]] = {
    "S4D, as shipped": ("sequence/s4d", [], 1.1),
    "S4D, steps near 10 ms": ("sequence/s4d", ["--model.d_model=8", "--data.batch_size=8", "--data.pool=4"], 1.25),
    "image classifier (ResNet), as shipped": ("vision/image_classifier", [], 1.1),
    "image classifier (ResNet), steps near 10 ms": ("vision/image_classifier", ["--data.batch_size=2"], 1.25),
    "image classifier (MLP), digits": (
        "vision/image_classifier_digits",
        ["--model.backbone=mlp", "--model.backbone_args=null", "--data.batch_size=32"],
        2.0,
    ),
}


class StepClock(Callback):
    """Records the time at the start of every step after the first epoch's first."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        """Called before the batch is used."""
        self.marks.append(time.perf_counter())


def through_framework(config: str, overrides: list[str], steps: int, folder: str) -> float:
    experiment = framework.build(
        config,
        [*overrides, f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1", f"--run.root={folder}",
         "--trainer.limit_val_batches=0", "--run.monitor=null", "--wandb.mode=offline", "--trainer.accelerator=cpu",
         "--trainer.enable_model_summary=false"],
    )  # fmt: skip
    clock = StepClock()
    experiment.trainer.callbacks.insert(0, clock)
    experiment.run()
    return (clock.marks[-1] - clock.marks[1]) / (len(clock.marks) - 2)


def plain(config: str, overrides: list[str], steps: int, folder: str) -> float:
    """Returns the loop a person would write: a shuffled DataLoader, forward, loss, backward, step, schedule; no log."""
    _, model, data = framework.build(config, [*overrides, f"--run.root={folder}", "--wandb.mode=disabled"])
    data.prepare_data()
    data.setup("fit")
    samples = data.train_set
    loader = DataLoader(
        samples, batch_size=data.batch_size, shuffle=True, collate_fn=lambda batch: batch, drop_last=data.drop_last
    )
    optimizer = build_optimizer(model, model.optimizer_config)
    schedule = build_schedule(optimizer, model.schedule_config, total=steps)
    loss_function = torch.nn.CrossEntropyLoss()
    model.train()
    marks: list[float] = []
    while len(marks) < steps:
        for x, y, *_ in loader:
            marks.append(time.perf_counter())
            optimizer.zero_grad()
            loss_function(model(x), y).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            if len(marks) == steps:
                break
    return (marks[-1] - marks[1]) / (len(marks) - 2)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    for name, (config, overrides, most) in CASES.items():
        if options.only not in name:
            continue
        ours, theirs = [], []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                theirs.append(plain(config, overrides, options.steps, folder))
                ours.append(through_framework(config, overrides, options.steps, folder))
        ratio = min(ours) / min(theirs)  # the quietest round of each: on a shared machine noise only adds
        yield Row(f"training step of {name}", "a plain loop", ratio, duration(min(theirs)), at_most(most))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", default="", help="cases whose name holds this")


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
