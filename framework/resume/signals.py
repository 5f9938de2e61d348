"""Signals during training: kept until a resume point can be written, for a limited time."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _HandlersCompose

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """Raised when a signal ends training.

    Lightning does not catch it; it ends the process with the shell's code for the signal: 130 for SIGINT, 143 for
    SIGTERM.

    Args:
        signum: The signal.
        code: Another exit code, for a helper of a process that reports the signal.
    """

    def __init__(self, signum: int, code: int | None = None) -> None:
        super().__init__(128 + signum if code is None else code)
        self.signum = signum


def exit_code(error: SystemExit) -> int:
    """Returns the exit code that ``error`` asks for.

    Lightning turns a Ctrl-C outside the training loop into exit code 1; this gives 130 for it.
    """
    if isinstance(error.__context__, KeyboardInterrupt) and not isinstance(error, Interrupted):
        return 128 + signal.SIGINT
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def say(line: str) -> None:
    """Prints a line to stderr, also from within a signal handler."""
    try:
        os.write(2, f"{line}\n".encode())
    except OSError:
        return


def requeue_signal(trainer: Trainer) -> int | None:
    """Returns the signal at which Lightning would save and requeue the SLURM job; ``None`` if it would not.

    Lightning saves within the handler, in the middle of a step, and closes the loggers of a run that continues.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    signum = environment.requeue_signal
    if signum is None or not isinstance(signal.getsignal(signum), _HandlersCompose):  # not Lightning's
        return None
    return int(signum)


def requeue(job: str) -> None:
    """Requeues the SLURM job and prints a line about it."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
        failed = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    say(f"SLURM did not requeue job {job}: {failed}" if failed else f"SLURM requeues job {job}")


class SignalWatch:
    """Records the first SIGINT, SIGTERM or requeue signal; ends the process at the second, or after a grace period.

    Args:
        grace: Seconds that may pass between the signal and :meth:`reached`.
        on_deadline: Called with the signal, from its own thread, when they have passed; then the process is ended.
        on_second: Called with the signal, within the handler, before the process is ended by a second signal.
        requeue: Another signal to handle, which SLURM sends when the job's time is nearly over.
    """

    def __init__(
        self,
        grace: float,
        on_deadline: Callable[[int], None],
        on_second: Callable[[int], None],
        requeue: int | None = None,
    ) -> None:
        self.requeue = requeue
        self.grace = grace
        self.on_deadline = on_deadline
        self.on_second = on_second
        self.received = 0
        self._previous: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def install(self) -> None:
        """Installs the handlers; does nothing outside the main thread, where Python does not allow it."""
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        self.received = 0
        for signum in (*_SIGNALS, *(() if self.requeue is None else (self.requeue,))):
            self._previous[signum] = signal.signal(signum, self._handle)

    def restore(self) -> None:
        """Restores the handlers and stops the clock."""
        self.reached()
        for signum, handler in self._previous.items():
            # Lightning tears down before its callbacks do, and has already restored its own handlers.
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def reached(self) -> None:
        """Stops the clock; called when a resume point can be written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def start_clock(self, on_deadline: Callable[[int], None]) -> None:
        """Ends the process after the grace period, unless :meth:`reached` is called before."""
        self.reached()
        self._timer = threading.Timer(self.grace, self._expire, (on_deadline,))
        self._timer.daemon = True
        self._timer.start()

    def _handle(self, signum: int, frame: Any) -> None:
        if self.received:
            self.on_second(signum)
            os._exit(128 + signum)
        self.received = signum
        self.start_clock(self.on_deadline)

    def _expire(self, on_deadline: Callable[[int], None]) -> None:
        try:
            on_deadline(self.received)
        finally:
            os._exit(128 + self.received)
