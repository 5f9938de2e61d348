"""The callback that owns ``last.ckpt``: a run resumed from it ends as if it had never stopped."""

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
"""A row that a tracker was handed this long ago counts as sent, should the process be killed."""
MAX_SHARE = 0.05
"""Saving takes at most this share of the time: a slow disk makes the points rarer."""


class ResumePoint(Callback):
    """Writes ``<folder>/last.ckpt`` while training, and restores everything when training goes on from it.

    A point is only written where Lightning's loops are at rest: after a batch whose gradients were applied and after
    which neither a validation nor the epoch's end is due, and after an epoch with all that belongs to it. It holds,
    beside what Lightning stores, the random generators, the means and metrics under way, the place in the data, and
    the length of the metrics log, which is cut to it; under DDP those of every rank.

    SIGINT and SIGTERM write a point at the next rest and end the process with exit code 130 or 143. Under SLURM the
    requeue signal (SIGUSR1) does so too, and puts the job back into the queue; the exit code is 138.

    Args:
        folder: Where ``last.ckpt`` goes.
        every_n_seconds: Least time between two points, in seconds; it grows where saving would take more than 5 % of
            the time. ``None``: no points by time. At the end of training there is always one.
        every_n_steps: A point at each multiple of this many optimiser steps too.
        run_id: The run's id, stored in the checkpoint.
        grace: Seconds that a signal waits for a point of rest; then the last point stands and the process ends.
        handle_signals: Whether to handle the signals at all.
        runs: The folder of the run folders of which this run's is to be the newest, whatever the clock says.
        stoppers: Settings of what may end a training before its time (techniques, callbacks, ``max_time``), as plain
            data: one that was stopped early stays so while they are the same.

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

    # where the loops are at rest

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Looks into the training loop, on this trainer only."""
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
        """Notes that this batch was followed by a validation."""
        self._validated = True

    def _after_batch(self, trainer: Trainer) -> None:
        received = self._watch.received if self._watch is not None else 0
        due = self._due(trainer)
        if not (due or received or trainer.world_size > 1):
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        # Right after a validation the logged step would be off by one after a resume; within an accumulation the
        # gradients would be lost; and what ends the epoch ends in a point of its own.
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
        """Rank 0's clock and any rank's signal count for all."""
        if trainer.world_size == 1:
            return due, received
        flags = torch.tensor([int(due and trainer.is_global_zero), received], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        due_anywhere, received_anywhere = flags.tolist()
        return bool(due_anywhere), received_anywhere

    @staticmethod
    def _ending(trainer: Trainer) -> bool:
        """Whether no epoch follows (the loop's own property would say so aloud, and change its counters)."""
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
        """Dates the file after every other run's that was there at the start, and after its own former one.

        The date decides which run is the last one; a clock that was put back would make it an old one.
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
        """Adds the point to a checkpoint of our own; a ``ModelCheckpoint``'s is not taken at rest and gets none."""
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
        """Keeps the point until training is about to begin.

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
        """A training that was stopped early, and is still, ends before anything is drawn, logged or counted."""
        if self._loaded is not None:
            ranks = self._loaded["ranks"]
            loops = ranks[trainer.global_rank if len(ranks) == trainer.world_size else 0]["loops"]
            if "stoppers" in self._loaded:
                same = self._loaded["stoppers"] == self.stoppers
            else:  # an older point, which does not say
                same = bool(trainer.early_stopping_callbacks) or not self._had_early_stopping
            trainer.should_stop = still_stopped(trainer, loops, same)

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last moment before the first batch: everything that draws, logs or counts at the start has done so."""
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
                f"The checkpoint was written by {len(ranks)} processes and goes on with {trainer.world_size}: "
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
        """Cuts the log to what the checkpoint knows of.

        Returns:
            The rows that trackers may not have been sent, and how many came before them.
        """
        log = self._log(trainer)
        if log is None:
            return [], 0
        if point["log_length"] and log.flush() == 0:
            rank_zero_info(f"{log.path} starts anew: the checkpoint's own log is elsewhere.")
            return [], 0
        log.cut(point["log_length"])
        self._sent = point["sent_length"]
        return log.rows_from(self._sent), log.rows_before(self._sent)

    # ending

    def _interrupt(self, trainer: Trainer, signum: int) -> None:
        """Ends training after a point was written."""
        code = 128 + signum
        if self._watch is not None:
            self._watch.received = self._watch.received or signum
            self._watch.start_clock(lambda _: self._kill_children(trainer))  # closing a logger may hang on a network
        if trainer.is_global_zero:
            say(f"{_name(signum)}: stopped at step {trainer.global_step}, all saved; go on with --ckpt_path last")
        close_loggers(trainer.loggers, code)
        if trainer.is_global_zero:
            self._requeue(signum)
        # A helper of a launcher ends with 0, or the launcher would take it for a crash and kill rank 0 as well.
        raise Interrupted(signum, code if trainer.is_global_zero else 0)

    def _requeue(self, signum: int) -> None:
        job = slurm()
        if job is not None and self._watch is not None and signum == self._watch.requeue:
            requeue(job["job"])

    def _give_up(self, trainer: Trainer, signum: int) -> None:
        if trainer.is_global_zero:
            how = "go on from the last one with --ckpt_path last" if self.path.exists() else "none was written yet"
            say(f"{_name(signum)}: stopped, no resume point could be written within {self.grace:g} s; {how}")
            self._requeue(signum)
        # this is not the main thread, and whatever holds that one may hold a logger too
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
        """Gives the signal handlers and the loop back."""
        self._release()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signal handlers and the loop back; a signal that came after the last point ends the process now."""
        received = self._watch.received if self._watch is not None else 0
        self._release()
        if self._loaded is not None:  # there was nothing left to train
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
            why, how = f"trainer.max_steps {loop.max_steps} is reached", "a larger trainer.max_steps trains on"
        elif -1 != (loop.max_epochs or 0) <= trainer.current_epoch:
            why, how = f"trainer.max_epochs {loop.max_epochs} is reached", "a larger trainer.max_epochs trains on"
        elif trainer.should_stop:
            early = trainer.early_stopping_callback is not None
            stopped = "EarlyStopping" if early else "a technique, a callback, trainer.max_time or the module"
            why = f"{stopped} ended it after {trainer.current_epoch} epochs of trainer.max_epochs {loop.max_epochs}"
            how = f"without it, or with {'more patience' if early else 'other settings of it'}, it trains on"
        else:
            return
        if trainer.is_global_zero:
            say(f"nothing was trained, the run is finished: {why}; {how}")


def _name(signum: int) -> str:
    return signal.Signals(signum).name


def _with(trainer: Trainer, method: str) -> list[Any]:
    """The loggers that have ``method``; one of Lightning's own dummies answers to every name, and is none of them."""
    return [logger for logger in trainer.loggers if callable(getattr(type(logger), method, None))]
