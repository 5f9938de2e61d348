"""Reads the user's ``.npz`` and ``.npy`` files, with one message for any problem in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from framework.errors import UserError


def read_npz(path: Path, expected: str, dtype: DTypeLike | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of a ``.npz`` by name, or the array of a ``.npy`` under the name ``array``.

    Args:
        path: The file; nothing in it is executed.
        expected: The expected contents, for the message.
        dtype: Type to which the arrays are converted; by default they are not converted.

    Raises:
        UserError: there is no such file, or it cannot be read or converted.
    """
    if not path.is_file():
        raise UserError(f"path: {path} not found; expected: {expected}")
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"array": np.asarray(found, dtype)}
        with found:
            return {name: np.asarray(found[name], dtype) for name in found.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"path: {path} cannot be read ({error}); expected: {expected}") from None


def shapes_of(arrays: dict[str, np.ndarray]) -> str:
    """Returns names and shapes, for a message."""
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
