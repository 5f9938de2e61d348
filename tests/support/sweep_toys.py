"""A training of a fraction of a second that can fail in every way, and other programs."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PROGRAM = """
import json, os, sys, time
import wandb
given = dict(item.removeprefix("--").split("=", 1) for item in sys.argv[1:])
with open("starts.txt", "a") as file:
    file.write(given["x"] + "\\n")
run = wandb.init(settings=wandb.Settings(console="off"))
assert run.config["x"] == float(given["x"]), (dict(run.config), given)
for count in range(int(given.get("epochs", 3))):
    wandb.log({"loss": float(given["x"]) + 1 / (count + 1)})
    time.sleep(float(given.get("pause", 0)))
behave = given.get("behave", "ok")
if behave == "exit":
    sys.exit(3)
if behave == "kill":
    time.sleep(2.2)
    os.kill(os.getpid(), 9)
wandb.finish()
print("done", given)
"""


def write(folder: Path, name: str, tree: dict[str, Any]) -> Path:
    """A sweep file; JSON is YAML."""
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def toy_sweep(folder: Path, name: str = "toy", *settings: str, **more: Any) -> Path:
    """A sweep file over the toy training, in the test's folder."""
    command = ["${env}", "${interpreter}", "-m", "framework", "fit", "--model=sweep_toys.Toy", "--data=sweep_toys.Data"]
    command += ["--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]
    command += ["--trainer.log_every_n_steps=1", *settings, "${args}"]
    tree = {"method": "grid", "metric": {"name": "val/loss", "goal": "minimize"}, "command": command, **more}
    return write(folder, name, tree)


class Toy(pl.LightningModule):
    """Logs the validation loss ``(x - 0.3)^2 + 1 / (epoch + 1)``, and does what ``behave`` says in the second epoch.

    Args:
        x: A parameter.
        behave: ``ok``, ``raise``, ``memory``, ``kill``, ``exit``, ``nan``, ``silent``, ``leave`` (switches of the whole
            process are turned), ``wait`` (unless ``x`` is 0: for the file ``go``, or to be told to end).
        options: Any mapping.
    """

    def __init__(self, x: float = 0.0, behave: str = "ok", options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.x, self.behave, self.options = x, behave, options or {}
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def on_train_start(self) -> None:
        with open("starts.txt", "a") as file:
            file.write(f"{self.x} {self.global_step}\n")

    def on_train_epoch_start(self) -> None:
        if self.current_epoch != 1:
            return
        if self.behave == "wait" and self.x:
            self._wait()
        if self.behave == "raise":
            raise RuntimeError("it went wrong\nwith a second line")
        if self.behave == "memory":
            raise MemoryError("no room")
        if self.behave == "kill":
            time.sleep(2.2)
            print("about to die", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behave == "exit":
            sys.exit(3)
        if self.behave == "leave":
            torch.set_default_dtype(torch.float64)
            torch.use_deterministic_algorithms(True)
            torch.autograd.set_detect_anomaly(True)
            os.environ["LEFT_BEHIND"] = "1"
            sys.argv.append("left")
            os.chdir("/")

    def _wait(self) -> None:
        told: list[int] = []
        before = signal.getsignal(signal.SIGTERM)

        def handle(signum: int, frame: Any) -> None:
            told.append(signum)
            before(signum, frame)

        signal.signal(signal.SIGTERM, handle)
        Path("waiting.txt").touch()
        while not told and not Path("go").exists():
            time.sleep(0.01)
        signal.signal(signal.SIGTERM, before)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.net(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        value = (self.x - 0.3) ** 2 + 1 / (self.current_epoch + 1) + 0.1 * (self.behave == "leave")
        if self.behave != "silent":
            self.log("val/loss", float("nan") if self.behave == "nan" else value)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Data(pl.LightningDataModule):
    """Eight rows of random numbers."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.rand(8, 4)), batch_size=4)

    val_dataloader = train_dataloader
