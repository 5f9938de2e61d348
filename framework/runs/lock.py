"""A lock on a run folder, so that two processes never write into it; it ends with the process in any case."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

from framework.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
_held: dict[tuple[int, int], int] = {}  # maps device and inode of a lock file to the process that holds it


class FolderLock:
    """An exclusive lock on a folder, through a file ``.lock`` in it.

    It is the operating system's lock of one process on a file: forked processes, such as a loader's workers, do not
    inherit it, and it is released when the process ends, so that nothing has to be cleaned up after a kill. On a file
    system without locks it does nothing.

    Args:
        folder: The folder, which must exist.

    Raises:
        UserError: another process, or another run of this process, has the lock; the message names it.
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE
        self._file: IO[str] | None = None
        while self._file is None:
            self._take()

    def _take(self) -> None:
        with suppress(FileNotFoundError):
            # looked up, not opened: closing a file releases every lock that the process has on it
            if _held.get(_key(self.path.stat())) == os.getpid():
                raise self._refusal("this process")
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - kept open as long as the lock is held
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise self._refusal(owner) from None
        except OSError:  # no locks on this file system
            pass
        opened = os.fstat(file.fileno())
        try:
            current = _key(self.path.stat())
        except FileNotFoundError:
            current = None
        if current != _key(opened):  # its owner has removed the file in between: this lock protects nothing
            file.close()
            return
        self._file = file
        _held[_key(opened)] = os.getpid()
        with suppress(OSError):  # a full disk is reported by more important writes
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()

    def _refusal(self, owner: str) -> UserError:
        return UserError(
            f"{self.folder} is in use by {owner}; wait until it has ended, or stop it (on a signal it saves and ends), "
            "or start another run"
        )

    def release(self) -> None:
        """Releases the lock and removes its file; does nothing if called again."""
        file, self._file = self._file, None
        if file is None:
            return
        _held.pop(_key(os.fstat(file.fileno())), None)
        with suppress(OSError):
            self.path.unlink()
        with suppress(OSError):  # a write that failed on a full disk
            file.close()


def _key(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
