"""Reads the file of a W&B offline run, also while it is being written; W&B itself has no Python reader for it.

``run-<id>.wandb`` is a log in LevelDB's format: a header of 7 bytes, then blocks of 32 KiB with records that are split
at the end of a block. Each part has a checksum, a length and a kind; a complete record is a protobuf message.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framework.errors import UserError

HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32768
PART = struct.Struct("<IHB")  # checksum of kind and data, length of the data, kind
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbFile:
    """The contents of an offline run's file.

    Attributes:
        run_id: W&B's id; ``None`` if the writer was killed before it wrote it.
        project: The project; here and below an empty text if none was given.
        entity: User or team.
        group: The group.
        name: The name shown.
        sweep_id: The sweep's id.
        tags: The tags.
        config: Maps top-level names to values; a name with dots stays one name.
        history: The logged rows, with W&B's own ``_step``, ``_timestamp`` and ``_runtime``; a logged mapping
            ``{"a": {"b": 1}}`` is the value ``a.b``.
        summary: The last value of each name, or the value set by the user.
        exit_code: ``None`` if the run was never closed.
    """

    run_id: str | None = None
    project: str = ""
    entity: str = ""
    group: str = ""
    name: str = ""
    sweep_id: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read(path: str | Path) -> WandbFile:
    """Reads everything in the file, up to the last complete record if the writer was killed.

    Raises:
        UserError: there is no such file, it has another format, or it is damaged before its end.
    """
    log = _Log(Path(path))
    result = WandbFile()
    try:
        payloads = log.new_payloads()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    for record in map(log.parse, payloads):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            result.run_id, result.project, result.entity = run.run_id, run.project, run.entity
            result.group, result.name, result.sweep_id = run.run_group, run.display_name, run.sweep_id
            result.tags = list(run.tags)
            _change(result.config, run.config, log)
            _change(result.summary, run.summary, log)
        elif kind == "config":
            _change(result.config, record.config, log)
        elif kind == "summary":
            _change(result.summary, record.summary, log)
        elif kind == "history":
            result.history.append(log.values(record.history.item))
        elif kind == "exit":
            result.exit_code = record.exit.exit_code
    log.refuse_hidden_records()
    return result


class WandbTail:
    """Follows the history in a file that another process writes; the file may not exist yet.

    A row is available when W&B has written it to the file: see ``x_transaction_log_flush_interval`` in
    :data:`framework.tracking.wandb_run.SETTINGS`, by default 15 s.

    Args:
        path: The ``.wandb`` file.
    """

    def __init__(self, path: str | Path) -> None:
        self._log = _Log(Path(path))

    def new_rows(self) -> list[dict[str, Any]]:
        """Returns the history rows that were completed since the last call, as in :class:`WandbFile`.

        Raises:
            UserError: the file is damaged, or has another format.
        """
        try:
            payloads = self._log.new_payloads()
        except FileNotFoundError:
            return []
        records = map(self._log.parse, payloads)
        return [self._log.values(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]


class _Log:
    """The records of one file, each returned once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0  # of the first record that was incomplete at the last read
        self._size = 0
        self._rest = b""

    def new_payloads(self) -> list[bytes]:
        """Returns the records that were completed since the last call."""
        if self.path.stat().st_size == self._size:
            return []
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        place = 0
        if self._offset == 0:
            if data[: len(HEADER)] != HEADER[: len(data)]:
                raise UserError(f"{self.path}: not the file of a W&B offline run, or of a version that is not known")
            place = len(HEADER)
        payloads, parts, done = [], b"", place
        while (part := self._part(data, place)) is not None:
            kind, payload, end = part
            if (kind in (WHOLE, FIRST)) != (place == done):
                raise self._damaged(place, "a part of a record is missing")
            parts = payload if place == done else parts + payload
            place = end
            if kind in (WHOLE, LAST):
                payloads.append(parts)
                done = place
        self._rest = data[place:]
        self._size = self._offset + len(data)
        if done <= len(data):
            self._offset += done
        return payloads

    def _part(self, data: bytes, place: int) -> tuple[int, bytes, int] | None:
        """Returns kind, data and end of the part at ``place``; ``None`` if it is incomplete."""
        left = BLOCK - (self._offset + place) % BLOCK
        if left < PART.size:
            place, left = place + left, BLOCK
        start = place + PART.size
        if start > len(data):
            return None
        checksum, length, kind = PART.unpack_from(data, place)
        if kind == 0 and not data[place:].strip(b"\0"):
            return None  # a file system may extend a file before its data is written
        if not WHOLE <= kind <= LAST or PART.size + length > left:
            raise self._damaged(place, "no record starts here")
        if start + length > len(data):
            return None
        payload = data[start : start + length]
        if checksum != zlib.crc32(payload, zlib.crc32(bytes([kind]))):
            raise self._damaged(place, "the checksum is wrong")
        return kind, payload, start + length

    def refuse_hidden_records(self) -> None:
        """Raises if complete records follow the apparent end of the file: then a length is wrong."""
        rest = self._rest
        for place in range(1, min(len(rest), BLOCK) - PART.size):
            if WHOLE <= rest[place + PART.size - 1] <= LAST:
                checksum, length, kind = PART.unpack_from(rest, place)
                payload = rest[place + PART.size : place + PART.size + length]
                if 0 < length == len(payload) and checksum == zlib.crc32(payload, zlib.crc32(bytes([kind]))):
                    raise UserError(f"{self.path}: damaged near byte {self._size - len(rest)}: a length is wrong")

    def _damaged(self, place: int, why: str) -> UserError:
        return UserError(f"{self.path}: damaged near byte {self._offset + place}: {why}")

    def parse(self, payload: bytes) -> Any:
        """Parses a record as a protobuf message."""
        from google.protobuf.message import DecodeError
        from wandb.proto import wandb_internal_pb2

        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined] # it is made at import
        try:
            record.ParseFromString(payload)
        except DecodeError as error:
            raise UserError(f"{self.path}: a record cannot be read by the installed wandb: {error}") from error
        return record

    def values(self, items: Iterable[Any]) -> dict[str, Any]:
        """Returns names and values of config, history or summary items."""
        try:
            return {_name(item): json.loads(item.value_json) for item in items}
        except ValueError as error:
            raise UserError(f"{self.path}: a value is not JSON, as by a version that is not known: {error}") from error


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _change(target: dict[str, Any], change: Any, log: _Log) -> None:
    target.update(log.values(change.update))
    for item in change.remove:
        target.pop(_name(item), None)
