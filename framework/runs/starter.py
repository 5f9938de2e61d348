"""A process that Lightning started to help with a run ends when the one that started it is gone."""

from __future__ import annotations

import os
import threading
import time

from framework.errors import RunFailed

VARIABLE = "FRAMEWORK_STARTED_BY"
"""Holds the process id of the starter in the environment of what it starts."""
SECONDS = 0.25


def pid() -> int | None:
    """The process that started this one as a rank of its run; ``None`` in any other."""
    return int(os.environ.get(VARIABLE) or 0) or None


def is_gone(seconds: float = 0.0) -> bool:
    """Whether the starter has ended, or does so within ``seconds``; false where there is none."""
    end = time.monotonic() + seconds
    while (started_by := pid()) is not None:
        if os.getppid() != started_by:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return False


def said() -> str:
    """The message."""
    return f"rank 0 (process {pid()}) has died, so rank {os.environ.get('LOCAL_RANK', '?')} ends too"


def end_with_starter() -> None:
    """Watches the starter from a thread, from here on; does nothing where there is none.

    A process that waits for others in a collective would otherwise stay for half an hour.
    """
    if pid() is not None:
        threading.Thread(target=_watch, name="starter-watch", daemon=True).start()


def _watch() -> None:
    while not is_gone():
        time.sleep(SECONDS)
    time.sleep(4 * SECONDS)  # a connection that broke may have told the main thread, which ends in its own way
    try:
        os.write(2, f"error: {said()}\n".encode())
    finally:
        os._exit(RunFailed.exit_code)
