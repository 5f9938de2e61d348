"""Reads data sets that are pickles of arrays, without executing anything in the pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.readers.unpacking import refuse_missing

_TYPES = {"f8", "f4", "i8", "i4", "u1"}


def read_array_pickle(path: Path, expected: str = "a pickle of arrays") -> Any:
    """Reads a pickle of builtin data and numpy arrays of numbers; every other name in it is refused.

    Args:
        path: The file.
        expected: What was expected, for the message.

    Returns:
        The contents; if they are a mapping, with text keys and arrays at its top level.

    Raises:
        UserError: the file is missing, cannot be read, is broken, or names anything but data.
    """
    refuse_missing(path, expected)
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error
    except Exception as error:  # a broken pickle can raise nearly anything
        raise UserError(f"{path}: not {expected}, nothing of it was used: {error}") from error
    if not isinstance(content, Mapping):
        return content
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return {key: value.value if isinstance(value, _Array) else value for key, value in named.items()}


class _DType:
    """Stands in for ``numpy.dtype``: plain little-endian numbers, and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|", "=", b"<", b"|", b"="):
            raise pickle.UnpicklingError(f"an array of byte order {state[1]!r}")


class _Array:
    """Stands in for ``numpy.ndarray``, so that numpy itself never sees a state from the file."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not of plain numbers")
        self.value = np.frombuffer(data, f"<{dtype.name}").reshape(shape, order="F" if fortran else "C").copy()


class _Allowed:
    """A function that a pickle may call; without attributes that it could set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name!r} of a function")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it sets attributes of a function")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _dtype(name: Any, *_: Any) -> _DType:
    name = name.decode("latin1") if isinstance(name, bytes) else str(name)
    if name not in _TYPES:
        raise pickle.UnpicklingError(f"an array of type {name!r}")
    return _DType(name)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("bytes in an encoding other than latin1")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Admits builtin data and arrays of numbers; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Allowed(_reconstruct)
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"
        if (module, name) == ("numpy", "dtype"):
            return _Allowed(_dtype)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _Allowed(_encode)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not data")
