"""Reading long streams of tokens: bytes, flat binary files and arrays, Arrow, memory-mapped where the format allows."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from framework.errors import UserError
from framework.settings import one_of

SUFFIXES = (".bin", ".npy", ".arrow", ".txt", ".raw", ".gz", ".zip", "")
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
    try:
        tokens, vocabulary = _read(file, dtype, column)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"path: {file} not found") from error
    except Exception as error:  # each format has its own types of errors
        raise UserError(f"path: {file} cannot be read as tokens ({error})") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise UserError(f"path: {file} holds {tokens.dtype} {tokens.shape}; expected a flat array of whole numbers")
    if not len(tokens):
        raise UserError(f"path: {file} is empty")
    return tokens, vocabulary


def _read(file: Path, dtype: str | None, column: str) -> tuple[np.ndarray, int | None]:
    if file.suffix == ".bin":
        said = _description(file.with_suffix(".json"))
        return _flat(file, dtype or said.get("dtype", "uint16")), said.get("vocab_size")
    if file.suffix == ".npy":
        with file.open("rb") as opened:
            header = opened.read(6)
        return (np.load(file, mmap_mode="r") if header == b"\x93NUMPY" else _flat(file, dtype or "uint16")), None
    if file.suffix == ".arrow":
        return _arrow(file, column), None
    if file.suffix == ".gz":
        return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8), BYTES
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            if len(names) != 1:
                raise UserError(f"path: {file} holds {len(names)} files; expected one")
            return np.frombuffer(archive.read(names[0]), np.uint8), BYTES
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
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"path: {file} is not JSON ({error})") from error
    if not isinstance(said, dict) or not isinstance(said.get("vocab_size", 1), int):
        raise UserError(f"path: {file} is not accepted; expected an object with dtype and vocab_size")
    return said


def _arrow(file: Path, column: str) -> np.ndarray:
    import pyarrow

    source = pyarrow.memory_map(str(file))
    try:
        table = pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        table = pyarrow.ipc.open_file(source).read_all()
    if column not in table.column_names:
        raise UserError(f"column: {file} has no column {column!r}; it has {', '.join(table.column_names)}")
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table.column(column).chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
