"""Ends a helper process that Lightning started when the process that started it has ended."""

from __future__ import annotations

import os
import threading
import time

from framework.errors import RunFailed

VARIABLE = "FRAMEWORK_STARTED_BY"
"""Environment variable with the process id of the starter, set for the processes that it starts."""
SECONDS = 0.25


def pid() -> int | None:
    """Returns the id of the process that started this one as a rank of its run; ``None`` for other processes."""
    return int(os.environ.get(VARIABLE) or 0) or None


def is_gone(seconds: float = 0.0) -> bool:
    """Returns whether the starter has ended, or does so within ``seconds``; false if there is none."""
    end = time.monotonic() + seconds
    while (started_by := pid()) is not None:
        if os.getppid() != started_by:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return False


def said() -> str:
    """Returns the message."""
    return f"rank 0 (process {pid()}) has died, so rank {os.environ.get('LOCAL_RANK', '?')} ends too"


def end_with_starter() -> None:
    """Starts a thread that watches the starter; does nothing if there is none.

    A process that waits for others in a collective would otherwise wait for half an hour.
    """
    if pid() is not None:
        threading.Thread(target=_watch, name="starter-watch", daemon=True).start()


def _watch() -> None:
    while not is_gone():
        time.sleep(SECONDS)
    time.sleep(4 * SECONDS)  # a broken connection may have raised in the main thread, which then ends normally
    try:
        os.write(2, f"error: {said()}\n".encode())
    finally:
        os._exit(RunFailed.exit_code)
