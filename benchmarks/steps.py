"""Cost of a training step through the framework against a plain PyTorch loop over the same model, data and optimiser.

Both sides are timed in turn in one process, the first step left out; each side's quietest round counts, because on a
shared machine noise only adds. W&B writes offline, as by default.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

import framework
from framework.optim import build_optimizer, build_schedule

CASES = {
    "S4D, as shipped": ("sequence/s4d", []),
    "S4D, steps near 10 ms": ("sequence/s4d", ["--model.d_model=8", "--data.batch_size=8", "--data.pool=4"]),
    "image classifier (ResNet), as shipped": ("vision/image_classifier", []),
    "image classifier (ResNet), steps near 10 ms": ("vision/image_classifier", ["--data.batch_size=2"]),
    "image classifier (MLP), digits": (
        "vision/image_classifier_digits",
        ["--model.backbone=mlp", "--model.backbone_args=null", "--data.batch_size=32"],
    ),
}


class StepClock(Callback):
    """Notes the time at the start of every step after the first epoch's first."""

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
    """The loop a person would write: a shuffled DataLoader, forward, loss, backward, step, schedule; no log."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'one thread, ' + str(arguments.rounds) + ' rounds of ' + str(arguments.steps) + ' steps':<44} "
          f"{'plain ms':>9} {'framework ms':>13} {'ratio':>7}")  # fmt: skip
    for name, (config, overrides) in CASES.items():
        if arguments.only not in name:
            continue
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                theirs.append(plain(config, overrides, arguments.steps, folder))
                ours.append(through_framework(config, overrides, arguments.steps, folder))
        ratio = min(ours) / min(theirs)  # the quietest round of each: on a shared machine noise only adds
        print(f"{name:<44} {1e3 * min(theirs):>9.2f} {1e3 * min(ours):>13.2f} {ratio:>7.2f}")


if __name__ == "__main__":
    main()
