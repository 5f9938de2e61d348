"""A progress bar with very little overhead; it prints whole lines if the output is not a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

BAR = 20


def count(number: float) -> str:
    """Returns a total as text, or ``?`` if it is unlimited."""
    return str(int(number)) if number not in (float("inf"), -1) else "?"


class Progress(ProgressBar):
    """Shows epoch, batch, speed and the metrics logged with ``prog_bar=True``.

    On a terminal it redraws one line; otherwise (a file, a pipe) it prints a line per validation and epoch. Lightning's
    own bars redraw after a number of batches, which slows down short steps; this one redraws after a time.

    Args:
        refresh_seconds: Minimum time between two redraws, in seconds.
        line_seconds: Minimum time between two lines if the output is not a terminal; the last line is always printed.
        stream: The output; standard output by default.
    """

    def __init__(self, refresh_seconds: float = 0.2, line_seconds: float = 1.0, stream: TextIO | None = None) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self.line_seconds = line_seconds
        self.stream = stream
        self._enabled = True
        self._drawn = 0.0
        self._shown = ""
        self._pending = ""
        self._rate = 0.0
        self._mark = (0.0, 0)

    @property
    def is_enabled(self) -> bool:
        """Whether this process shows anything."""
        return self._enabled

    def disable(self) -> None:
        """Turns the bar off; Lightning calls it on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Turns the bar on again."""
        self._enabled = True

    @property
    def _out(self) -> TextIO:
        return self.stream or sys.stdout

    @property
    def _terminal(self) -> bool:
        try:
            return self._out.isatty()
        except ValueError:  # closed
            return False

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns the metrics shown: those logged with ``prog_bar=True``, without the logger's version."""
        return dict(trainer.progress_bar_metrics)

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        """Prints above the bar."""
        self._clear()
        print(*args, sep=sep, file=self._out, flush=True)

    # training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._mark = (time.monotonic(), trainer.fit_loop.total_batch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraws the bar if it is due."""
        now = time.monotonic()
        if now - self._drawn < self.refresh_seconds or not self._enabled or not self._terminal:
            return
        self._draw(self._training_line(trainer, pl_module, batch_idx + 1), now)

    def _speed(self, trainer: Trainer) -> float:
        now, batches = time.monotonic(), trainer.fit_loop.total_batch_idx
        then, before = self._mark
        if now - then > 0.5 or not self._rate:
            self._rate = (batches - before) / max(now - then, 1e-9)
            self._mark = (now, batches)
        return self._rate

    def _training_line(self, trainer: Trainer, pl_module: LightningModule, done: int) -> str:
        total = trainer.num_training_batches
        filled = int(BAR * done / total) if 0 < total < float("inf") else 0
        return (
            f"epoch {trainer.current_epoch + 1}/{count(trainer.max_epochs or -1)} "
            f"[{'=' * filled}{' ' * (BAR - filled)}] {done}/{count(total)}  "
            f"step {trainer.global_step}  {self._speed(trainer):.4g} it/s  {self._values(trainer, pl_module)}"
        )

    def _values(self, trainer: Trainer, pl_module: LightningModule) -> str:
        metrics = self.get_metrics(trainer, pl_module)
        return "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the result of a validation within an epoch; one at its end is printed with the epoch."""
        if (
            trainer.state.fn == "fit"
            and not trainer.sanity_checking
            and not trainer.fit_loop.epoch_loop._is_training_done
        ):
            self._say(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the result of an epoch."""
        self._say(trainer, pl_module)

    def _say(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._enabled or self._terminal:
            return
        line = (
            f"epoch {trainer.current_epoch + 1}/{count(trainer.max_epochs or -1)}  step {trainer.global_step}  "
            f"{self._speed(trainer):.4g} it/s  {self._values(trainer, pl_module)}"
        ).rstrip()
        now = time.monotonic()
        if now - self._drawn < self.line_seconds:
            self._pending = line
            return
        self._drawn, self._pending = now, ""
        print(line, file=self._out, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the last state on the screen."""
        if not self._enabled:
            return
        if self._terminal:
            self._draw(self._training_line(trainer, pl_module, trainer.fit_loop.batch_idx + 1), time.monotonic())
            self._end()
        elif self._pending:
            print(self._pending, file=self._out, flush=True)
            self._pending = ""

    # the other stages

    def _stage(self, name: str, done: int, totals: Any) -> None:
        now = time.monotonic()
        if now - self._drawn < self.refresh_seconds or not self._enabled or not self._terminal:
            return
        total = sum(totals) if isinstance(totals, list) else totals
        self._draw(f"{name} {done}/{count(total)}", now)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Redraws the bar if it is due."""
        self._stage("validation", batch_idx + 1, trainer.num_val_batches)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Redraws the bar if it is due."""
        self._stage("test", batch_idx + 1, trainer.num_test_batches)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Redraws the bar if it is due."""
        self._stage("predict", batch_idx + 1, trainer.num_predict_batches)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the bar."""
        self._clear()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the bar."""
        self._clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the bar on the screen, and moves the cursor below it."""
        self._end()

    # the terminal

    def _draw(self, line: str, now: float) -> None:
        self._drawn = now
        self._out.write("\r" + line.ljust(len(self._shown)))
        self._out.flush()
        self._shown = line

    def _clear(self) -> None:
        if self._shown:
            self._out.write("\r" + " " * len(self._shown) + "\r")
            self._out.flush()
            self._shown = ""

    def _end(self) -> None:
        if self._shown:
            self._out.write("\n")
            self._out.flush()
            self._shown = ""
