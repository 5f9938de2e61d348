"""Reading long streams of tokens: bytes, flat binary files and arrays, Arrow, memory-mapped where the format allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from framework.errors import UserError
from framework.readers.arrays import map_array
from framework.readers.tables import open_columnar
from framework.readers.text import read_text
from framework.readers.unpacking import is_gzip, read_bytes, read_only_member, refuse_missing
from framework.settings import one_of

NUMBERED = (".bin", ".npy", ".arrow")
"""Files of numbers of tokens; of the others the bytes are the tokens."""
SUFFIXES = (*NUMBERED, ".txt", ".raw", ".gz", ".zip", "")
PACKED = (".parquet", ".npz", ".pt", ".pth", ".safetensors", ".zst", ".xz", ".bz2", ".7z", ".tgz", ".tar")
Dtype = Literal["uint8", "uint16", "uint32", "int32", "int64"]
BYTES = 256


def read_tokens(file: Path, dtype: str | None = None, column: str = "input_ids") -> tuple[np.ndarray, int | None]:
    """Returns the tokens of one file.

    - ``.bin``: numbers without a header; a ``.json`` of the same name may give ``dtype`` and ``vocab_size``.
      Memory-mapped.
    - ``.npy``: numpy's format, or numbers without a header (as ``dolma tokens`` writes and OLMoE reads). Memory-mapped.
    - ``.arrow``: the column ``column``, concatenated lists of tokens (``datasets``' ``save_to_disk``). Memory-mapped.
    - any other file: bytes; ``.gz``, and ``.zip`` with a single member, are unpacked in memory. Plain files are
      memory-mapped.

    Args:
        file: The file.
        dtype: Type of the numbers in a ``.bin`` or headless ``.npy``: one of ``uint8``, ``uint16``, ``uint32``,
            ``int32``, ``int64``; by default as in the ``.json``, otherwise ``uint16``.
        column: Column of an Arrow file.

    Returns:
        The tokens (N,), and the size of the vocabulary if the file gives it.

    Raises:
        UserError: the file is missing, empty or broken.
    """
    tokens, vocabulary = _read(file, dtype, column)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(f"path: {file} holds {tokens.dtype} {tokens.shape}; expected a flat array of whole numbers")
    if not len(tokens):
        raise UserError(f"path: {file} is empty")
    return tokens, vocabulary


def _read(file: Path, dtype: str | None, column: str) -> tuple[np.ndarray, int | None]:
    suffix = file.suffix.lower()
    refuse_missing(file, "a file of tokens, or any as bytes")
    if suffix in PACKED:
        raise UserError(f"path: {file}: the bytes of a {suffix} file are noise; unpack it first")
    if suffix == ".bin":
        said = _description(file.with_suffix(".json"))
        return _flat(file, dtype or said.get("dtype", "uint16")), said.get("vocab_size")
    if suffix == ".npy":
        with file.open("rb") as opened:
            header = opened.read(6)
        if header == b"\x93NUMPY":
            return map_array(file, "a flat array of whole numbers"), None
        return _flat(file, dtype or "uint16"), None
    if suffix == ".arrow":
        return _arrow(file, column), None
    if suffix == ".gz":
        if not is_gzip(file):
            raise UserError(f"path: {file} is not gzip, whatever its name")
        return np.frombuffer(read_bytes(file), np.uint8), BYTES
    if suffix == ".zip":
        return np.frombuffer(read_only_member(file), np.uint8), BYTES
    return _flat(file, "uint8"), BYTES


def _flat(file: Path, dtype: str) -> np.ndarray:
    one_of(get_args(Dtype), **{f"dtype of {file}": dtype})
    size = file.stat().st_size
    if size % np.dtype(dtype).itemsize:
        raise UserError(f"path: {file} has {size} bytes, which is not a whole number of {dtype}")
    return np.memmap(file, dtype, mode="r") if size else np.zeros(0, dtype)


def _description(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        said = json.loads(read_text(file))
    except ValueError as error:
        raise UserError(f"path: {file} is not JSON ({error})") from error
    if not isinstance(said, dict) or not isinstance(said.get("vocab_size", 1), int):
        raise UserError(f"path: {file} is not accepted; expected an object with dtype and vocab_size")
    return said


def _arrow(file: Path, column: str) -> np.ndarray:
    table = open_columnar(file, ".arrow")
    if column not in table.column_names:
        raise UserError(f"column: {file} has no column {column!r}; it has {', '.join(table.column_names)}")
    lists = table.column(column)
    if not hasattr(lists.type, "value_type"):
        raise UserError(f"column: {column!r} of {file} holds {lists.type}; lists of whole numbers are expected")
    parts = [chunk.flatten() for chunk in lists.chunks]
    if lists.null_count or any(part.null_count for part in parts):
        raise UserError(f"column: {column!r} of {file} has missing values")
    numbers = [part.to_numpy(zero_copy_only=False) for part in parts]
    return numbers[0] if len(numbers) == 1 else np.concatenate(numbers or [np.zeros(0, np.int32)])
