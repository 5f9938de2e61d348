"""Short fits of experiments on learning dynamics: a quiet Trainer, and a run that stops and is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from modules.ensemble import Ensemble


def trainer(folder: Path, epochs: int = 4, **options: Any) -> pl.Trainer:
    """Returns a Trainer without loggers, checkpoints and output."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet, **options
    )


class StopAfter(pl.Callback):
    """Writes a checkpoint at the end of an epoch and stops."""

    def __init__(self, epoch: int, path: Path) -> None:
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def resumed_is_whole(make: Callable[[], Ensemble], data: Callable[[], pl.LightningDataModule], folder: Path) -> None:
    """Checks that four epochs give bit-identical weights with and without a stop after two, from another initialisation."""
    torch.manual_seed(0)
    whole = make()
    trainer(folder / "whole").fit(whole, data())
    path = folder / "half.ckpt"
    torch.manual_seed(0)
    trainer(folder / "half", callbacks=[StopAfter(1, path)]).fit(make(), data())
    torch.load(path, weights_only=True)
    torch.manual_seed(1)
    resumed = make()
    trainer(folder / "rest").fit(resumed, data(), ckpt_path=path, weights_only=True)
    first, second = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    curves = whole.trajectory(), resumed.trajectory()
    assert curves[0].keys() == curves[1].keys()
    assert all(np.array_equal(curves[0][name], curves[1][name], equal_nan=True) for name in curves[0])
    assert len(curves[0]["step"]) > 2
