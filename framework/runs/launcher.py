"""Watches the processes of a run that Lightning starts on a machine: if one dies all end, and it is reported."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from framework.errors import RunFailed, UserError
from framework.resume.signals import say
from framework.runs import starter
from framework.tracking import close_loggers

SECONDS = 0.25
WAIT_SECONDS = 5.0
"""Seconds that an error in one rank waits to see whether another rank has ended, which may be its cause."""
GRACE_SECONDS = 15.0
"""Seconds that a process whose helper has died may take to notice it and end normally."""


class WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, but a rank that dies ends the run with a message.

    Lightning's own observer kills rank 0 without a message when another rank has died, and lets the other ranks wait
    when rank 0 has died. If torchrun, SLURM or the like start the processes, they also watch them, and this class does
    nothing.

    Args:
        cluster_environment: Lightning's cluster environment, which knows who starts the processes.
        num_processes: Number of ranks on this machine.
        num_nodes: Number of machines.
    """

    def __init__(self, cluster_environment: Any, num_processes: int, num_nodes: int) -> None:
        super().__init__(cluster_environment, num_processes, num_nodes)
        self._settled = threading.Event()

    def launch(self, function: Callable[..., Any], *args: Any, trainer: pl.Trainer | None = None, **kwargs: Any) -> Any:
        """Starts the other ranks if that is this process's task, and runs ``function``.

        Raises:
            RunFailed: another rank has died.
        """
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[starter.VARIABLE] = str(os.getpid())
            try:
                self._call_children_scripts()
            finally:
                del os.environ[starter.VARIABLE]
            self._settled.clear()
            threading.Thread(target=self._watch, args=(trainer,), name="rank-watch", daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            result = function(*args, **kwargs)
        except UserError:
            self._end(wait=starter.pid() is not None)
            raise
        except Exception as error:
            if starter.is_gone(WAIT_SECONDS / 2):
                raise RunFailed(starter.said()) from error
            lost = self._lost(WAIT_SECONDS)
            self._end(wait=False)
            if lost is not None:
                raise RunFailed(lost) from error
            raise
        self._settled.set()
        return result

    def _end(self, wait: bool) -> None:
        """Ends the helper processes, whose errors follow from this one's; a helper itself waits to be ended."""
        if wait:
            time.sleep(WAIT_SECONDS / 2)
        self._settled.set()
        self.kill(signal.SIGKILL)

    def _lost(self, seconds: float = 0.0) -> str | None:
        """Returns the message for a helper that has ended with an error, or does so within ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            for rank, process in enumerate(self.procs, start=1):
                if code := process.poll():
                    return self._describe(rank, process.pid, code)
            if time.monotonic() >= end or not self.procs:
                return None
            time.sleep(0.05)

    def _describe(self, local_rank: int, pid: int, code: int) -> str:
        rank = self.cluster_environment.node_rank() * self.num_processes + local_rank
        if code > 0:
            return f"rank {rank} (process {pid}) ended with exit code {code}, so the run ends; its own error is above"
        name = signal.Signals(-code).name
        hint = "; the system does that when memory is short" if name == "SIGKILL" else ""
        return f"rank {rank} (process {pid}) was ended by {name}, so the run ends{hint}"

    def _watch(self, trainer: pl.Trainer | None) -> None:
        while not self._settled.wait(SECONDS):
            if (lost := self._lost()) is not None:
                # usually a broken connection raises in the main thread; some collectives would wait for half an hour
                if not self._settled.wait(GRACE_SECONDS):
                    self._give_up(trainer, lost)
                return
            if all(process.returncode == 0 for process in self.procs):
                return

    def _give_up(self, trainer: pl.Trainer | None, lost: str) -> None:
        try:
            say(f"error: {lost}")
            self.kill(signal.SIGKILL)
            # this is not the main thread, and a blocked main thread may hold the logger's lock
            loggers = () if trainer is None else trainer.loggers
            closing = threading.Thread(target=close_loggers, args=(loggers, RunFailed.exit_code), daemon=True)
            closing.start()
            closing.join(5.0)
            sys.stderr.flush()
        finally:
            os._exit(RunFailed.exit_code)


def watch_ranks(trainer: pl.Trainer) -> None:
    """Replaces the trainer's launcher by :class:`WatchedLauncher`."""
    launcher = trainer.strategy.launcher
    if type(launcher) is _SubprocessScriptLauncher:
        trainer.strategy._launcher = WatchedLauncher(
            launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
        )
