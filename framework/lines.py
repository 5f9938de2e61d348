"""Files of lines that a killed process may have left with half a line at the end."""

from __future__ import annotations

import os
from typing import BinaryIO


def cut_half_line(file: BinaryIO) -> int:
    """Cuts what follows the last newline of ``file`` (open for reading and writing), and stands there.

    Appended to, it would spoil the next line too.

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
