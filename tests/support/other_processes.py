"""Helpers to wait for conditions and to inspect processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(condition: Callable[[], Any], seconds: float = 90.0, said: Callable[[], object] = lambda: "") -> None:
    """Waits until the condition holds; fails after a number of seconds, with the text of ``said``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"nothing happened: {said()}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Returns whether a process runs; a zombie does not."""
    return _stat(pid)[:1] not in ([], ["Z"])


def descendants_of(pid: int) -> list[int]:
    """Returns the processes that a process has started, and their own child processes."""
    parents = {int(path.name): _stat(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    children = [child for child, stat in parents.items() if stat and int(stat[1]) == pid]
    return [*children, *(further for child in children for further in descendants_of(child))]


def _stat(pid: int) -> list[str]:
    """A process's state, its parent, and what follows in its line; nothing if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
