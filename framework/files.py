"""Writing files so that they are whole or not there, and saying which one could not be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from framework.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What no program can be blamed for: the disk or the quota is full, or the file system takes no writes."""


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``, which takes its place when the block has ended well.

    Raises:
        UserError: it cannot be written; the message names ``path`` and the system's reason. What was there stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp.{os.getpid()}")
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
    """Writes a text file, UTF-8, whole or not at all.

    Raises:
        UserError: see :func:`written`.
    """
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
