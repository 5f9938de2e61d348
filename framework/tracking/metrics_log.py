"""The record of a run's metrics: an append-only file of JSON lines, and a CSV table made from it."""

from __future__ import annotations

import csv
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from framework.errors import UserError
from framework.files import cut_half_line, written

FILE = "metrics.jsonl"
TABLE = "metrics.csv"
FLUSH_SECONDS = 1.0
"""Rows are written to the file after at most this many seconds, if logging continues; for the disk see
:meth:`MetricsLog.flush`."""


def _writes() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _number(value: Any) -> Any:
    """Converts a value to a number; unlike :func:`framework.plain.plain_data` it raises for anything else."""
    return value.item() if hasattr(value, "item") else float(value)


def _whole_lines(data: bytes) -> bytes:
    """Returns ``data`` without an incomplete last line."""
    return data[: data.rfind(b"\n") + 1]


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics log, in the order in which they were logged.

    Args:
        folder: The run folder, or the ``metrics.jsonl`` in it.

    Returns:
        One mapping per row, with ``step``, ``epoch`` if known, and the values; empty if there is no log. An incomplete
        last line, left by a killed process, is ignored.

    Raises:
        UserError: a line is not JSON.
    """
    path = Path(folder)
    path = path / FILE if path.is_dir() else path
    if not path.exists():
        return []
    return _parse(path, _whole_lines(path.read_bytes()))


def _parse(path: Path, data: bytes) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a row of a metrics log ({error})") from error
    return rows


def columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Turns rows into columns of equal length: ``step``, ``epoch``, then the names in order; ``None`` where absent."""
    rows = list(rows)
    names = {name for row in rows for name in row}
    ordered = [name for name in ("step", "epoch") if name in names] + sorted(names - {"step", "epoch"})
    return {name: [row.get(name) for row in rows] for name in ordered}


def series(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Returns the steps at which ``name`` was logged, and its values."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return [step for step, _ in points], [value for _, value in points]


class MetricsLog(Logger):
    """Writes ``metrics.jsonl`` into a folder: one line per call, keys sorted, floats with all digits.

    NaN and infinities are written as ``NaN``, ``Infinity`` and ``-Infinity``, which Python's ``json`` reads back. Rows
    are buffered; the resume point flushes them to the disk before each checkpoint, and on a resume cuts the file to its
    length at the checkpoint. ``finalize`` writes the same rows as a wide ``metrics.csv``. Only rank 0 writes.

    Args:
        folder: The run folder; made when the first row is written.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self._rows: list[str] = []
        self._file: BinaryIO | None = None
        self._flushed = time.monotonic()
        self._lock = threading.Lock()  # a signal's timer flushes from its own thread
        self._encode = json.JSONEncoder(sort_keys=True, default=_number).encode

    @property
    def name(self) -> str:
        """Always ``"metrics"``."""
        return "metrics"

    @property
    def version(self) -> str:
        """Always empty: there is one log per run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a row."""
        if not _writes() or not metrics:
            return
        row = dict(metrics)
        if step is not None:
            row["step"] = step
        self._rows.append(self._encode(row))
        now = time.monotonic()
        if now - self._flushed > FLUSH_SECONDS:
            self.flush()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder holds the whole config."""

    def _open(self) -> BinaryIO:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            mode = "r+b" if self.path.exists() else "w+b"
            # unbuffered: bytes that did not fit on a full disk must not be written after later rows
            file: Any = open(self.path, mode, buffering=0)  # noqa: SIM115 - kept open
            cut_half_line(file)
            self._file = file
        return self._file

    def _append(self, data: bytes) -> None:
        """Writes all of ``data`` or, if that fails, nothing."""
        file = self._open()
        start = file.tell()
        left = memoryview(data)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with suppress(OSError):
                file.truncate(start)
                file.seek(start)
            raise

    def flush(self, sync: bool = False) -> int:
        """Writes the buffered rows.

        Args:
            sync: Whether to wait until the file is on the disk.

        Returns:
            The length of the file, in bytes.

        Raises:
            UserError: the file cannot be written, for example because the disk is full; the rows stay in memory, and
                the file has no incomplete row.
        """
        if not _writes():
            return 0
        with self._lock:
            try:
                file, count = self._open(), len(self._rows)
                if count:
                    self._append(("\n".join(self._rows[:count]) + "\n").encode())
                    del self._rows[:count]
                if sync:
                    os.fsync(file.fileno())
            except OSError as error:
                raise UserError(f"{self.path}: the metrics cannot be written: {error.strerror or error}") from error
            self._flushed = time.monotonic()
            return file.tell()

    def cut(self, length: int) -> None:
        """Removes all rows after the first ``length`` bytes, which were logged after the last checkpoint.

        Raises:
            UserError: the file is shorter, so rows from before the checkpoint are missing.
        """
        if not _writes():
            return
        with self._lock:
            self._rows = []
            file = self._open()
            size = file.seek(0, os.SEEK_END)
            if size < length:
                raise UserError(
                    f"{self.path} has {size} bytes, but the checkpoint was written when it had {length}: rows are "
                    "missing. Put the file back, or start a new run from the checkpoint's weights"
                )
            file.truncate(length)
            file.seek(length)

    def rows_from(self, offset: int) -> list[dict[str, Any]]:
        """Returns the rows after the first ``offset`` bytes."""
        self.flush()
        data = self.path.read_bytes()
        return _parse(self.path, _whole_lines(data[offset:]))

    def rows_before(self, offset: int) -> int:
        """Returns the number of rows in the first ``offset`` bytes."""
        return self.path.read_bytes()[:offset].count(b"\n") if offset else 0

    def finalize(self, status: str) -> None:
        """Flushes the log and writes the table."""
        if not _writes():
            return
        if self._file is None and not self._rows and (not self.path.exists() or (self.folder / TABLE).exists()):
            return
        self.flush(sync=True)
        write_table(self.folder)

    def close(self, exit_code: int = 0) -> None:
        """Finalizes and closes the file; a later row opens it again."""
        self.finalize("success" if exit_code == 0 else "failed")
        if self._file is not None:
            self._file.close()
            self._file = None


def write_table(folder: str | Path) -> Path:
    """Writes ``metrics.csv`` from ``metrics.jsonl``: a row per logged row, a column per name, empty where absent."""
    folder = Path(folder)
    table = columns(read_metrics(folder))
    path = folder / TABLE
    with written(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path
