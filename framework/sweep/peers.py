"""Keeps track of which supervisors of a sweep are alive."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framework.sweep.study import Study

BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
"""Seconds without a heartbeat after which a supervisor on another machine counts as dead, by this process's clock."""


def _namespace() -> str:
    """Returns an id of the machine or container within which process ids are unique."""
    parts = []
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("/pid") else Path(path).read_text().strip())
        except OSError:
            parts.append(socket.gethostname())
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """Returns the process's start time, in the system's ticks; ``None`` if there is no process, ``""`` if not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[19] if fields[0] not in "ZX" else None  # a zombie counts as dead
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


class Peers:
    """This supervisor's view of the other supervisors.

    Args:
        study: The sweep's trials.
        patience: Seconds without a heartbeat after which a supervisor on another machine counts as dead.
        interval: Seconds between heartbeats.
    """

    def __init__(self, study: Study, patience: float = PATIENCE_SECONDS, interval: float = BEAT_SECONDS) -> None:
        self._study, self._patience, self._interval = study, patience, interval
        self._space = _namespace()
        pid = os.getpid()
        self.name = "|".join((socket.gethostname(), str(pid), _started(pid) or "", self._space))
        self._count = 0
        self._beaten = -interval
        self._read = -interval
        self._seen: dict[str, tuple[int, float]] = {}

    @property
    def host(self) -> str:
        """The machine's name."""
        return self.name.split("|", 1)[0]

    def beat(self) -> None:
        """Writes a heartbeat if it is due."""
        now = time.monotonic()
        if now - self._beaten >= self._interval:
            self._beaten = now
            self._count += 1
            self._study.beat(self.name, self._count)

    def is_dead(self, owner: str) -> bool:
        """Returns whether a supervisor is known to have ended."""
        if owner == self.name:
            return False
        _, pid, started, space = owner.split("|", 3)
        if space == self._space:
            return _started(int(pid)) != started
        now = time.monotonic()
        if now - self._read >= self._interval:
            if now - self._read > self._patience / 2:  # no heartbeats were read, as if the storage was away
                self._seen = {name: (count, now) for name, (count, _) in self._seen.items()}
            self._read = now
            for name, count in self._study.beats().items():
                if self._seen.get(name, (None, 0.0))[0] != count:
                    self._seen[name] = (count, now)
        _, since = self._seen.setdefault(owner, (-1, now))
        return now - since > self._patience
