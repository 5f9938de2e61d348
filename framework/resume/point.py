"""The callback that writes ``last.ckpt``; a run resumed from it ends as if it had never stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from framework.errors import UserError
from framework.resume.generators import capture_generators, restore_generators
from framework.resume.loop_state import capture_loops, restore_loops, still_stopped
from framework.resume.signals import Interrupted, SignalWatch, requeue, requeue_signal, say
from framework.settings import at_least
from framework.tracking import close_loggers
from framework.tracking.metrics_log import MetricsLog
from framework.tracking.provenance import slurm

KEY = "resume_point"
VERSION = 1
SENT_SECONDS = 60.0
"""A row passed to a tracker longer ago than this counts as sent if the process is killed."""
MAX_SHARE = 0.05
"""Saving takes at most this share of the time: on a slow disk there are fewer resume points."""


class ResumePoint(Callback):
    """Writes ``<folder>/last.ckpt`` while training, and restores everything when training resumes from it.

    A resume point is only written when Lightning's loops are between two steps: after a batch whose gradients were
    applied and after which neither a validation nor the epoch's end is due, or after an epoch with its validation and
    hooks. Besides Lightning's checkpoint it holds the random generators, the running means and metrics, the position in
    the data, and the length of the metrics log, which is cut to that length on a resume; under DDP those of every rank.

    At SIGINT and SIGTERM the next possible point is written and the process ends with exit code 130 or 143. Under SLURM
    the requeue signal (SIGUSR1) does the same and requeues the job; the exit code is 138.

    Args:
        folder: Folder of ``last.ckpt``.
        every_n_seconds: Minimum time between two points, in seconds; increased if saving would take more than 5 % of
            the time. ``None``: no points by time. One is always written at the end of training.
        every_n_steps: If set, a point is also written at each multiple of this many optimiser steps.
        run_id: The run's id, saved in the checkpoint.
        grace: Seconds to wait after a signal until a point can be written; then the process ends, and the last point is
            kept.
        handle_signals: Whether to handle the signals.
        runs: The folder of run folders; among them this run is made the newest, whatever the clock says.
        stoppers: Settings of everything that may end a training early (techniques, callbacks, ``max_time``), as plain
            data; a training that was stopped early stays stopped while they are the same.

    Raises:
        UserError: ``every_n_steps`` is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        every_n_seconds: float | None = 30.0,
        every_n_steps: int | None = None,
        run_id: str = "",
        grace: float = 20.0,
        handle_signals: bool = True,
        runs: Path | None = None,
        stoppers: Any = None,
    ) -> None:
        at_least(1, every_n_steps=every_n_steps)
        self.path = Path(folder) / "last.ckpt"
        self.every_n_seconds = every_n_seconds
        self.every_n_steps = every_n_steps
        self.run_id = run_id
        self.grace = grace
        self.handle_signals = handle_signals
        self.runs = runs
        self.stoppers = stoppers
        self._had_early_stopping = False
        self.save_seconds = 0.0  # the last save's duration
        self._saving: str | None = None
        self._validated = False
        self._loaded: dict[str, Any] | None = None
        self._watch: SignalWatch | None = None
        self._unwrap: list[tuple[Any, str]] = []
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._newest = 0  # date of the newest last.ckpt that has been seen, ns
        self._sent = 0
        self._handed: deque[tuple[float, int]] = deque()

    # when the loops are between two steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wraps the training loop of this trainer."""
        self._loaded = None
        self._release()
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):
            return
        fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
        run_start, batch_end, epoch_end = (fit_loop.on_run_start, epoch_loop.on_advance_end, fit_loop.on_advance_end)

        def on_run_start() -> None:
            run_start()
            self._begin(trainer, pl_module)

        def on_batch_end(data_fetcher: Any) -> None:
            self._validated = False
            batch_end(data_fetcher)
            self._after_batch(trainer)

        def on_epoch_end() -> None:
            epoch_end()
            self._after_epoch(trainer)

        self._wrap(fit_loop, "on_run_start", on_run_start)
        self._wrap(epoch_loop, "on_advance_end", on_batch_end)
        self._wrap(fit_loop, "on_advance_end", on_epoch_end)

    def _wrap(self, loop: Any, name: str, function: Callable[..., None]) -> None:
        setattr(loop, name, function)
        self._unwrap.append((loop, name))

    def _release(self) -> None:
        for loop, name in self._unwrap:
            vars(loop).pop(name, None)
        self._unwrap = []
        if self._watch is not None:
            self._watch.restore()
            self._watch = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records that this batch was followed by a validation."""
        self._validated = True

    def _after_batch(self, trainer: Trainer) -> None:
        received = self._watch.received if self._watch is not None else 0
        due = self._due(trainer)
        if not (due or received or trainer.world_size > 1):
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        # Right after a validation the logged step would be off by one after a resume; within an accumulation window the
        # # gradients would be lost; the end of the epoch writes its own point.
        if self._validated or epoch_loop._should_accumulate() or epoch_loop._is_training_done or trainer.should_stop:
            return
        due, received = self._agree(trainer, due, received)
        if due or received:
            self._save(trainer, "batch")
        if received:
            self._interrupt(trainer, received)

    def _after_epoch(self, trainer: Trainer) -> None:
        received = self._watch.received if self._watch is not None else 0
        due, received = self._agree(trainer, self._due(trainer), received)
        if due or received or self._ending(trainer):
            self._save(trainer, "epoch")
        elif (log := self._log(trainer)) is not None:
            log.flush(sync=True)
        if received:
            self._interrupt(trainer, received)

    def _due(self, trainer: Trainer) -> bool:
        if self.every_n_seconds is not None:
            wait = max(self.every_n_seconds, self.save_seconds / MAX_SHARE) if self.every_n_seconds else 0.0
            if time.monotonic() - self._saved_at >= wait:
                return True
        step = trainer.global_step
        return self.every_n_steps is not None and step % self.every_n_steps == 0 and step != self._saved_step

    @staticmethod
    def _agree(trainer: Trainer, due: bool, received: int) -> tuple[bool, int]:
        """Makes all ranks use rank 0's clock and any rank's signal."""
        if trainer.world_size == 1:
            return due, received
        flags = torch.tensor([int(due and trainer.is_global_zero), received], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        due_anywhere, received_anywhere = flags.tolist()
        return bool(due_anywhere), received_anywhere

    @staticmethod
    def _ending(trainer: Trainer) -> bool:
        """Returns whether no epoch follows; the loop's own property would print it and change its counters."""
        loop = trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        return bool(
            -1 != loop.max_steps <= loop.epoch_loop.global_step
            or -1 != (loop.max_epochs or 0) <= epochs.processed
            or (trainer.should_stop and loop._can_stop_early)
        )

    # writing

    def _save(self, trainer: Trainer, at: str) -> None:
        start = time.monotonic()
        self._saving = at
        try:
            trainer.save_checkpoint(self.path, weights_only=False)
        finally:
            self._saving = None
        if trainer.is_global_zero:
            self._put_last()
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self.save_seconds = self._saved_at - start

    def _put_last(self) -> None:
        """Sets the file's time after every other run's at the start, and after its own previous one.

        The time decides which run is the newest, also after the clock was set back.
        """
        with suppress(OSError):
            state = self.path.stat()
            date = max(state.st_mtime_ns, self._newest + 1_000_000)
            if date != state.st_mtime_ns:
                os.utime(self.path, ns=(state.st_atime_ns, date))
            self._newest = date

    def _find_newest(self) -> None:
        found = [self.path] if self.runs is None else [self.path, *self.runs.glob(f"*/checkpoints/{self.path.name}")]
        self._newest = 0
        for path in found:
            with suppress(OSError):
                self._newest = max(self._newest, path.stat().st_mtime_ns)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the point to ``last.ckpt``; a ``ModelCheckpoint`` may save within a step, so its files have none."""
        if self._saving is None:
            return
        rank: dict[str, Any] = {"generators": capture_generators(), "loops": capture_loops(trainer, pl_module)}
        ranks: list[Any] = [rank]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, rank)
        log = self._log(trainer)
        length = log.flush(sync=True) if log is not None else 0
        now = time.monotonic()
        while self._handed and now - self._handed[0][0] >= SENT_SECONDS:
            self._sent = self._handed.popleft()[1]
        if not self._handed or now - self._handed[-1][0] > 1.0:
            self._handed.append((now, length))
        checkpoint[KEY] = {
            "version": VERSION,
            "run_id": self.run_id,
            "at": self._saving,
            "stoppers": self.stoppers,
            "ranks": ranks,
            "log_length": length,
            "sent_length": min(self._sent, length),
        }

    @staticmethod
    def _log(trainer: Trainer) -> MetricsLog | None:
        return next((logger for logger in trainer.loggers if isinstance(logger, MetricsLog)), None)

    # reading

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the point until training is about to start.

        Raises:
            UserError: the point was written by a later version.
        """
        point = checkpoint.get(KEY)
        if point is not None and point["version"] > VERSION:
            raise UserError(
                f"the checkpoint's resume point has version {point['version']}, this installation reads up to {VERSION}"
            )
        self._loaded = point
        self._had_early_stopping = any(key.startswith("EarlyStopping") for key in checkpoint.get("callbacks") or {})
        if point is not None and trainer.state.fn == "fit":
            for logger in _with(trainer, "pause"):
                logger.pause()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a training that was stopped early, and stays so, before any random number is drawn or value logged."""
        if self._loaded is not None:
            ranks = self._loaded["ranks"]
            loops = ranks[trainer.global_rank if len(ranks) == trainer.world_size else 0]["loops"]
            if "stoppers" in self._loaded:
                same = self._loaded["stoppers"] == self.stoppers
            else:  # an older point, without this entry
                same = bool(trainer.early_stopping_callbacks) or not self._had_early_stopping
            trainer.should_stop = still_stopped(trainer, loops, same)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the point right before the first batch, after all hooks that draw, log or count at the start."""
        point, self._loaded = self._loaded, None
        self._handed.clear()
        self._sent = 0
        if point is not None:
            self._go_on(trainer, pl_module, point)
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            self._find_newest()
        if self.handle_signals:
            self._watch = SignalWatch(
                self.grace,
                on_deadline=lambda signum: self._give_up(trainer, signum),
                on_second=lambda signum: self._kill_children(trainer),
                requeue=requeue_signal(trainer),
            )
            self._watch.install()

    def _go_on(self, trainer: Trainer, pl_module: LightningModule, point: dict[str, Any]) -> None:
        ranks = point["ranks"]
        if len(ranks) != trainer.world_size:
            rank_zero_info(
                f"The checkpoint was written by {len(ranks)} processes and is resumed with {trainer.world_size}: "
                "weights, optimiser and steps are restored, random numbers and running means are not."
            )
        else:
            own = ranks[trainer.global_rank]
            restore_loops(trainer, pl_module, own["loops"], at_epoch_end=point["at"] == "epoch")
            restore_generators(own["generators"])
        if trainer.is_global_zero:
            rows, before = self._cut_log(trainer, point)
            for logger in _with(trainer, "resend"):
                logger.resend(rows, before)

    def _cut_log(self, trainer: Trainer, point: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
        """Cuts the log to its length at the checkpoint.

        Returns:
            The rows that trackers may not have received, and the number of rows before them.
        """
        log = self._log(trainer)
        if log is None:
            return [], 0
        if point["log_length"] and log.flush() == 0:
            rank_zero_info(f"{log.path} starts empty: the checkpoint's own log is elsewhere.")
            return [], 0
        log.cut(point["log_length"])
        self._sent = point["sent_length"]
        return log.rows_from(self._sent), log.rows_before(self._sent)

    # ending

    def _interrupt(self, trainer: Trainer, signum: int) -> None:
        """Ends training after a point has been written."""
        code = 128 + signum
        if self._watch is not None:
            self._watch.received = self._watch.received or signum
            self._watch.start_clock(lambda _: self._kill_children(trainer))  # closing a logger may wait for a network
        if trainer.is_global_zero:
            say(f"{_name(signum)}: stopped at step {trainer.global_step}, all saved; resume with --ckpt_path last")
        close_loggers(trainer.loggers, code)
        if trainer.is_global_zero:
            self._requeue(signum)
        # A launcher's helper ends with 0, or the launcher would treat it as a crash and kill rank 0 as well.
        raise Interrupted(signum, code if trainer.is_global_zero else 0)

    def _requeue(self, signum: int) -> None:
        job = slurm()
        if job is not None and self._watch is not None and signum == self._watch.requeue:
            requeue(job["job"])

    def _give_up(self, trainer: Trainer, signum: int) -> None:
        if trainer.is_global_zero:
            how = "resume from the last one with --ckpt_path last" if self.path.exists() else "none was written yet"
            say(f"{_name(signum)}: stopped, no resume point could be written within {self.grace:g} s; {how}")
            self._requeue(signum)
        # this is not the main thread, and a blocked main thread may hold the logger's lock
        closing = threading.Thread(target=close_loggers, args=(trainer.loggers, 128 + signum), daemon=True)
        closing.start()
        closing.join(5.0)
        self._kill_children(trainer)

    @staticmethod
    def _kill_children(trainer: Trainer) -> None:
        kill = getattr(trainer.strategy.launcher, "kill", None)
        if callable(kill):
            kill(signal.SIGKILL)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the signal handlers and the loop."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the signal handlers and the loop; ends the process if a signal came after the last point."""
        received = self._watch.received if self._watch is not None else 0
        self._release()
        if self._loaded is not None:  # nothing was left to train
            self._loaded = None
            self._say_finished(trainer)
            for logger in _with(trainer, "resend"):
                logger.resend([])
        if received:
            self._interrupt(trainer, received)

    @staticmethod
    def _say_finished(trainer: Trainer) -> None:
        loop = trainer.fit_loop
        if -1 != loop.max_steps <= loop.epoch_loop.global_step:
            why, how = f"trainer.max_steps {loop.max_steps} is reached", "a larger trainer.max_steps continues it"
        elif -1 != (loop.max_epochs or 0) <= trainer.current_epoch:
            why, how = f"trainer.max_epochs {loop.max_epochs} is reached", "a larger trainer.max_epochs continues it"
        elif trainer.should_stop:
            early = trainer.early_stopping_callback is not None
            stopped = "EarlyStopping" if early else "a technique, a callback, trainer.max_time or the module"
            why = f"{stopped} ended it after {trainer.current_epoch} epochs of trainer.max_epochs {loop.max_epochs}"
            how = f"without it, or with {'more patience' if early else 'other settings of it'}, training continues"
        else:
            return
        if trainer.is_global_zero:
            say(f"nothing was trained, the run is finished: {why}; {how}")


def _name(signum: int) -> str:
    return signal.Signals(signum).name


def _with(trainer: Trainer, method: str) -> list[Any]:
    """Returns the loggers that have ``method``; Lightning's dummy logger, which has every name, is left out."""
    return [logger for logger in trainer.loggers if callable(getattr(type(logger), method, None))]
