"""Reads the file of a W&B offline run, of which W&B itself has no reader."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER, BLOCK = 7, 32768


def records(path: Path) -> Iterator[Any]:
    """The protobuf records in the order of writing; stops where a killed process stopped."""
    data, offset, part = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while True:
        left = BLOCK - offset % BLOCK
        if left < 7:
            offset += left
        if offset + 7 > len(data):
            return
        crc, length, kind = struct.unpack_from("<IHB", data, offset)
        payload = data[offset + 7 : offset + 7 + length]
        if kind == 0 or len(payload) < length:
            return
        assert crc == zlib.crc32(payload, zlib.crc32(bytes([kind])))
        offset += 7 + length
        part += payload
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def items(holder: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in holder}


def read_run(folder: Path) -> dict[str, Any]:
    """One offline run: ``id``, ``group``, ``config``, ``history`` (rows) and ``exit_code`` (or ``None``)."""
    (path,) = folder.glob("*.wandb")
    run: dict[str, Any] = {"id": None, "group": "", "config": {}, "history": [], "exit_code": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["group"], run["name"] = record.run.run_id, record.run.run_group, record.run.display_name
            run["project"], run["tags"] = record.run.project, list(record.run.tags)
            run["config"] |= items(record.run.config.update)
        elif kind == "config":
            run["config"] |= items(record.config.update)
        elif kind == "history":
            run["history"].append(items(record.history.item))
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def offline_runs(folder: Path) -> list[dict[str, Any]]:
    """All offline runs below a run folder, in the order of their making."""
    return [read_run(path) for path in sorted(folder.glob("wandb/offline-run-*"))]
