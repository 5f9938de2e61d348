"""Writes files atomically, and repairs files that a killed process left incomplete."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from framework.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors that are not the program's fault: the disk or the quota is full, or the file system is read-only."""


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())


def temporary_beside(path: Path) -> Path:
    """Returns the temporary path beside ``path`` to which this process writes first."""
    return path.with_name(f".{path.name}.tmp.{_host()}.{os.getpid()}")


def remove_stale(folder: Path) -> None:
    """Removes temporary files that killed processes of this machine left in ``folder``."""
    for path in folder.glob(f".*.tmp.{_host()}.*"):
        pid = path.name.rpartition(".")[2]
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except OSError:  # the process is alive and belongs to another user
            continue


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A context manager that yields a temporary path beside ``path`` and moves it to ``path`` if the block succeeds.

    Raises:
        UserError: it cannot be written; the message names ``path`` and the system's reason. The old file is kept.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically.

    Raises:
        UserError: see :func:`written`.
    """
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def cut_half_line(file: BinaryIO) -> int:
    """Removes everything after the last newline of ``file`` (open for reading and writing), and seeks to its end.

    A killed process may leave an incomplete line, to which the next line would be appended.

    Returns:
        The length of the file.
    """
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        end = start + found + 1 if found >= 0 else start
        if found >= 0:
            break
    if end != size:
        file.truncate(end)
    return file.seek(end)
