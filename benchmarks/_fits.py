"""Measures the time of the training steps of a ``fit``, without its start-up, in seconds of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

import lightning.pytorch as pl

from framework.runs.experiment import build


class Clock(pl.Callback):
    """Records when the first training step started and the last ended."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, index: int) -> None:
        """Records the start of the first step."""
        if trainer.global_step == 0:
            self.first = time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, index: int
    ) -> None:
        """Records the end of the last step."""
        self.last = time.process_time()


def fitted(config: str, options: list[str], root: str) -> float:
    """Returns the seconds of the training steps.

    Args:
        config: Short name of a shipped config.
        options: Options as on the command line.
        root: Folder for the run.
    """
    quiet = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    where = [f"--run.root={root}", "--trainer.logger=false", "--trainer.max_epochs=1"]
    trainer, model, data = build(config, overrides=[*options, *quiet, *where])
    clock = Clock()
    trainer.callbacks.append(clock)
    trainer.fit(model, data)
    return clock.last - clock.first


def times(call: Callable[[], object], repeats: int) -> list[float]:
    """Returns the seconds of each call."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return found
